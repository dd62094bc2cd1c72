"""Show the `name: what it is` lines of docstrings as lists on the API pages."""

import re
from typing import Any

import griffe

# A line that begins with one or several names and a colon describes a parameter or a field.
_ENTRY = re.compile(r"^(?P<names>(?:[a-z_]\w*|[A-Z])(?:, [a-z_]\w*)*): (?P<text>.+)$")
_SECOND_ENTRY = re.compile(r"\. (?=[a-z_]\w*(?:, [a-z_]\w*)*: )")
_RAISES = re.compile(r"^(Raises|Returns|Source:|Paper)\b")


class DocstringLists(griffe.Extension):
    """Rewrites each docstring once it is read; the source stays as it is."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_lists(obj.docstring.value)


def as_lists(docstring: str) -> str:
    """The docstring in Markdown: its `name: text` lines as list items, and what it raises as a paragraph."""
    lines: list[str] = []
    in_list = False
    for line in _SECOND_ENTRY.sub(".\n", docstring).splitlines():
        entry = _ENTRY.match(line.strip())
        if entry:
            if not in_list:
                lines.append("")
            names = ", ".join(f"`{name}`" for name in entry["names"].split(", "))
            lines.append(f"- {names}: {entry['text']}")
            in_list = True
        elif in_list and line.strip() and not _RAISES.match(line.strip()):
            lines.append(f"    {line.strip()}")
        else:
            if in_list or _RAISES.match(line.strip()):
                lines.append("")
            in_list = False
            lines.append(line)
    return "\n".join(lines).replace("][", "]\\[")  # brackets that are no link
