"""Records one step every hundredth of a second into the folder that is named, until it is killed."""

import sys
import time
from pathlib import Path

import numpy as np

from spatialvla.actions.units import LIBERO
from spatialvla.types import CameraImage
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig

recording = Recordings(Destination(folder=Path(sys.argv[1])), Rig({"front": None}, LIBERO), "tests").open(
    "killed"
)
image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
for step in range(10_000):
    recording.show_cameras(step, {"front": CameraImage(image)}, "push")
    recording.move(step, np.zeros(7))
    print(step, time.monotonic(), flush=True)
    time.sleep(0.01)
