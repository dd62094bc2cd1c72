"""Checks of numbers that several configurations hold."""

from __future__ import annotations

from spatialvla.errors import InputError


def check_fractions(**values: float) -> None:
    """Raises InputError for the first of the named values that lies outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} is a fraction in [0, 1], not {value}.")


def check_positive(**values: float | None) -> None:
    """Raises InputError for the first of the named values that is not above 0; None is not set, and passes."""
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} must be positive, not {value}.")


def check_counts(**values: int) -> None:
    """Raises InputError for the first of the named values that is less than 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")


def check_not_negative(**values: float) -> None:
    """Raises InputError for the first of the named values that is not a number of 0 or more."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"{name} must be 0 or more, not {value}.")
