"""What a run shows of its validations."""

from rich.console import Console

from spatialvla.training.config import TrainConfig
from spatialvla.training.run.progress import Progress


def shown(numbers: dict[str, float]) -> list[list[str]]:
    console = Console(record=True, width=100)
    Progress(TrainConfig(), console).report(7, numbers)
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_a_validation_is_a_table_of_measures_by_kind() -> None:
    numbers = {"loss": 1.5, "loss/translation": 3.0, "loss/gripper": 0.25, "error/translation": 0.125}
    assert shown(numbers) == [
        ["step", "7:", "loss", "1.5000"],
        ["loss", "error"],
        ["translation", "3.0000", "0.1250"],
        ["gripper", "0.2500"],
    ]


def test_a_validation_without_kinds_is_a_line() -> None:
    assert shown({"loss": 1.5}) == [["step", "7:", "loss", "1.5000"]]
