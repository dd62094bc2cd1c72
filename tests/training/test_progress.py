"""What a run shows of its validations."""

from rich.console import Console

from spatialvla.training.config import TrainConfig
from spatialvla.training.run.progress import Progress


def shown(numbers: dict[str, float], width: int = 100) -> list[list[str]]:
    console = Console(record=True, width=width)
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


def test_what_a_hidden_camera_costs_is_a_table_of_its_own_that_is_not_cut_off() -> None:
    measures = ("accuracy/translation", "error/quantization", "l1/gripper", "loss/gripper", "present/wrist")
    hidden = {f"without_{name}/l1/translation": 0.5 for name in ("state", "wrist")}
    lines = shown({**dict.fromkeys(measures, 0.25), **hidden}, width=80)
    assert lines[1] == ["accuracy", "error", "l1", "loss", "present"]
    assert ["quantization", "0.2500"] in lines
    assert lines[-2:] == [["without_state", "without_wrist"], ["l1/translation", "0.5000", "0.5000"]]
