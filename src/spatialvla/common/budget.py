"""How much may be decoded from outside: steps and bytes, counted before they are spent."""

from __future__ import annotations


class OverBudget(ValueError):
    """Content that would take more steps or bytes than it may, as the end of a sentence."""


class Budget:
    """Steps and bytes that one content may take, also where a few bytes stand for many.

    steps: values that it may hold. size: bytes that they may take. What is referred to again counts again, as
    if it were written out, since whoever goes through it meets it again.
    """

    def __init__(self, steps: int, size: int) -> None:
        self._most = steps, size
        self.spent = 0, 0

    def spend(self, steps: int = 0, size: int = 0) -> None:
        """Counts steps and bytes. Raises OverBudget where there are not so many left."""
        self.spent = self.spent[0] + steps, self.spent[1] + size
        if self.spent[0] > self._most[0]:
            raise OverBudget(
                f"it has more than {self._most[0]} parts, those that it repeats counted each time"
            )
        if self.spent[1] > self._most[1]:
            raise OverBudget(f"it takes more than {self._most[1]} bytes when it is decoded")
