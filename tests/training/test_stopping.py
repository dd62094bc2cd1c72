"""What happens when a run is asked to stop: in its process, and in the Slurm example around it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from spatialvla.training.run.stopping import STOPPED, stop_requests

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "pretrain.sbatch"


def test_signals_are_noted_inside_only():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    assert STOPPED == os.EX_TEMPFAIL


@pytest.fixture
def submit(tmp_path):
    """Runs the example with commands of Slurm that only note their arguments, and a torchrun of our own."""

    def submitted(torchrun, *arguments):
        for name, content in {
            "scontrol": f'echo "$@" >> {tmp_path}/scontrol; [ "$1" = requeue ] || echo node7',
            "srun": 'shift; exec "$@"',
            "torchrun": f'echo "$@" > {tmp_path}/torchrun; {torchrun}',
        }.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{content}\n")
            path.chmod(0o755)
        slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        return subprocess.Popen([SCRIPT, *arguments], env=os.environ | slurm | {"PATH": path})

    return submitted


@pytest.mark.parametrize("code", [0, 3])
def test_the_slurm_example_passes_on_how_the_run_ended(submit, tmp_path, code):
    assert submit(f"exit {code}", "--out", "runs/a b").wait(10) == code
    words = (tmp_path / "torchrun").read_text()
    assert "--nnodes 2 --nproc-per-node 8" in words
    assert "--rdzv-endpoint node7:29500" in words
    assert words.endswith("-m spatialvla pretrain --resume --out runs/a b\n")
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_the_slurm_example_waits_for_the_checkpoint_and_requeues(submit, tmp_path):
    saved = tmp_path / "saved"
    job = submit(
        f"trap 'sleep 0.3; touch {saved}; exit 1' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    )
    end = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < end:
        time.sleep(0.02)
    job.terminate()
    assert job.wait(20) == 0
    assert saved.exists()
    assert (tmp_path / "scontrol").read_text().splitlines()[-1] == "requeue 42"
