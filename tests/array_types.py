"""The type checker of the tests: it compares arrays with the dtypes and shapes in annotations, and nothing else."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """What pytest's option --jaxtyping-packages wraps each annotated function in."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if "jaxtyping" in repr(hint)}
    return beartype(function)
