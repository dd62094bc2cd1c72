"""Write docs/reference/tree.md: every folder and file of the code with the first line that says what it holds.

python docs/extensions/tree.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "tree.md"
ROOMS = (
    "src/spatialvla",
    "packages/spatialvla-client/src/spatialvla_client",
    "packages/lerobot_policy_spatialvla/src/lerobot_policy_spatialvla",
    "benchmarks",
    "examples",
)
SIGNED = (".py", ".cpp", ".h")

INTRODUCTION = """\
# The tree of files

Every file begins with one line that says what it holds. `python docs/extensions/tree.py` makes this page of them, and
a test fails when it is out of date. [Architecture](../explanation/architecture.md) shows how the rooms fit together.
"""


def page() -> str:
    """The page in Markdown."""
    return "\n".join([INTRODUCTION, *(section for room in ROOMS for section in sections(ROOT / room))])


def sections(folder: Path) -> Iterator[str]:
    """A heading and a table for a folder, then for each folder in it that holds code."""
    files = [
        path for path in sorted(folder.iterdir()) if path.suffix in SIGNED and path.name != "__init__.py"
    ]
    rows = [f"| [`{path.name}`](../../{path.relative_to(ROOT)}) | {cell(sign(path))} |" for path in files]
    package = folder / "__init__.py"
    sentence = sign(package) if package.exists() else ""
    if rows or sentence:
        about = [sentence, ""] if sentence else []
        table = ["| file | what it holds |", "|---|---|", *rows, ""] if rows else []
        yield "\n".join([f"## `{folder.relative_to(ROOT)}/`", "", *about, *table])
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from sections(inner)


def sign(path: Path) -> str:
    """The first line of a file's docstring, or of its comment in C++; empty where there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return text.partition("\n")[0].removeprefix("//").strip()


def cell(text: str) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
