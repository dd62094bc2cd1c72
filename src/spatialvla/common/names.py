"""Names that may have been mistyped, and the ending of a sentence that offers those there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean a or b?` where some of `known` are like `name` or hold it, else a list of what there is."""
    by_folded = {each.casefold(): each for each in known}
    folded = name.casefold()
    close = get_close_matches(folded, by_folded, n=3) or [each for each in by_folded if folded in each][:3]
    if close:
        return f"did you mean {' or '.join(by_folded[each] for each in close)}?"
    listed = list(by_folded.values())
    more = ", …" if len(listed) > _MOST else ""
    return f"choose from {', '.join(listed[:_MOST])}{more}."
