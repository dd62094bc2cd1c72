"""What each rank of `test_torchrun.py` does: the run in a pickled configuration, step by step not too fast.

Arguments: the pickle's path, and the seconds that a step waits.
"""

import pickle
import sys
import time
from pathlib import Path

import torch
from tiny_policy import tiny

from spatialvla.model.presets import PRESETS
from spatialvla.training.loop import train
from spatialvla.training.run.stopping import STOPPED
from spatialvla.training.step import Learner

if __name__ == "__main__":
    torch.set_num_threads(1)
    PRESETS["tiny"] = tiny  # type: ignore[index]
    update = Learner.update

    def paced(self, *arguments):
        time.sleep(float(sys.argv[2]))
        return update(self, *arguments)

    Learner.update = paced  # type: ignore[method-assign]
    result = train(pickle.loads(Path(sys.argv[1]).read_bytes()), resume=True, device="cpu")
    sys.exit(0 if result.finished else STOPPED)
