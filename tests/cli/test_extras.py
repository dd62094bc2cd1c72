"""Every verb in an installation without extras: one line that says which to install."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DATASET = str(TESTS / "data" / "lerobot_v3")
PICTURE = str(TESTS / "goldens" / "reference" / "images" / "img4_100x140.png")
SEEN = ("--camera", "observation.images.top")

CASES = {
    "train": (["train", "--dataset", DATASET], "The tracker tensorboard needs tensorboard", "train"),
    "finetune": (["finetune", "--dataset", DATASET], "LoRA needs peft", "train"),
    "export": (["export", "--policy", "{adapter}", "--out", "{out}"], "LoRA needs peft", "train"),
    "serve": (["serve", "--policy", "nano"], "Serving needs", "serve"),
    "serve vla-eval": (["serve", "--policy", "nano", "--protocol", "vla-eval"], "needs", "vla-eval"),
    "serve lerobot": (["serve", "--policy", "nano", "--protocol", "lerobot"], "needs", "lerobot-server"),
    "evaluate": (["evaluate", "--policy", "nano", "--out", "{out}"], "The report needs matplotlib", "viz"),
    "demo": (["demo", "--out", "{out}"], "The report needs matplotlib", "viz"),
    "predict": (
        ["predict", PICTURE, "go", "--policy", "nano", "--figures", "{out}"],
        "Drawing needs matplotlib",
        "viz",
    ),
    "inspect": (
        ["data", "inspect", "--dataset", DATASET, *SEEN, "--out", "{out}"],
        "Drawing needs matplotlib",
        "viz",
    ),
    "inspect for Rerun": (
        ["data", "inspect", "--dataset", DATASET, *SEEN, "--rerun", "{out}"],
        "Recording for Rerun needs rerun",
        "rerun",
    ),
    "calibrate": (
        [
            *("calibrate", "--table", "{table}", "--board", "8", "5", "0.03", "--camera", "front"),
            *("--out", "{new}", "--intrinsics", "100", "100", "50", "70", "--size", "100", "140"),
        ],
        "Finding a board needs cv2",
        "calibrate",
    ),
    "record": (["record", "--out", "{out}"], "Playing LIBERO needs libero", "libero"),
}
"""A command, how its sentence begins, and the extra it names."""

WITHOUT_EXTRAS = """
import contextlib, io, json, sys

class Visible:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in sys.argv[1].split()
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Visible, sys.meta_path)
from spatialvla.cli.main import main
answers = {}
for case, arguments in json.load(sys.stdin).items():
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main(arguments)
        except SystemExit as exit:
            answers[case] = exit.code, errors.getvalue()
        except Exception as error:
            answers[case] = repr(error), errors.getvalue()
print("ANSWERS" + json.dumps(answers))
"""

HIDDEN = """cv2 rerun peft tensorboard matplotlib prometheus_client grpc libero robosuite
mujoco mani_skill gymnasium vla_eval"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code and stderr of each case."""
    folder = tmp_path_factory.mktemp("extras")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    columns = "picture,gripper_x,gripper_y,gripper_z,gripper_rx,gripper_ry,gripper_rz"
    (folder / "table.csv").write_text(f"{columns}\n{PICTURE},0,0,0,0,0,0\n")
    names = {
        "{adapter}": str(folder / "adapter"),
        "{out}": str(folder / "out"),
        "{new}": str(folder / "robot.yaml"),
        "{table}": str(folder / "table.csv"),
    }
    commands = {case: [names.get(word, word) for word in command] for case, (command, _, _) in CASES.items()}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, HIDDEN],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWERS")[2])


@pytest.mark.parametrize("case", CASES)
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(answers, case):
    code, errors = answers[case]
    _, sentence, extra = CASES[case]
    lines = errors.strip().splitlines()
    assert code == 2, errors
    assert sentence in lines[-1]
    assert lines[-1].endswith(f"run pip install 'spatialvla[{extra}]'.")
