"""Print as JSON what the real lerobot (0.6.1, Python >= 3.12) sees in a dataset folder.

    python open_with_lerobot.py FOLDER FRAME [FRAME ...]

Frames are numbered through the whole dataset; images are thinned to every 16th pixel. It made
lerobot_v3_golden.json: `python open_with_lerobot.py lerobot_v3 0 59 60 137 299`.
"""

import json
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset


def jsonable(key, value, cameras, depth):
    if not hasattr(value, "numpy"):
        return value
    array = value.numpy()
    if key in cameras:
        array = array[:, ::16, ::16]
        array = array[0] if key in depth else (array * 255).round().astype("uint8").transpose(1, 2, 0)
    return array.tolist()


def main(root, frames):
    dataset = LeRobotDataset("local/test", root=root, video_backend="pyav")
    meta = dataset.meta
    seen = {
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "tasks": list(meta.tasks.index),
        "lengths": list(meta.episodes["length"]),
        "stats": {name: {k: v.tolist() for k, v in part.items()} for name, part in meta.stats.items()},
        "items": {
            index: {
                key: jsonable(key, value, meta.camera_keys, meta.depth_keys)
                for key, value in dataset[index].items()
            }
            for index in frames
        },
    }
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], [int(frame) for frame in sys.argv[2:]])
