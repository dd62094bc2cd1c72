"""The pages of the documentation, and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "tree.md"),
)
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<marker>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    marker: what the comment above says to do with it instead of running it, such as "skip (8 GPUs)".
    """

    page: Path
    line: int
    language: str
    code: str
    marker: str

    @property
    def way(self) -> str:
        """The marker without its reason."""
        return self.marker.partition(" (")[0]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, without comments, those that continue joined."""
        joined = self.code.replace("\\\n", " ")
        return [
            line.strip() for line in re.sub(r"(^|  )#.*", "", joined, flags=re.M).splitlines() if line.strip()
        ]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["code"], found["marker"] or "")
