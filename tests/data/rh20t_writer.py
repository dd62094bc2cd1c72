"""Writes a folder in RH20T's published layout."""

import json

import av
import numpy as np
from PIL import Image

FRONT, WRIST = "750612070851", "043322070878"
K = np.array([[900.0, 0, 640, 0], [0, 900, 360, 0], [0, 0, 1, 0]])
START = 1_631_270_000_000


def pickled(path, content):
    """As the dataset's own tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)


def quaternion(yaw):
    """w x y z about z."""
    return np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])


def pose(time):
    """The tool after so many ms: 0.1 m/s along x, turning 0.2 rad/s about z."""
    seconds = (time - START) / 1000
    return np.concatenate([[0.3 + 0.1 * seconds, 0.1, 0.2], quaternion(0.2 * seconds)])


def write_video(path, count):
    """Frame t is of brightness 5 t."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for number in range(count):
            pixels = np.full((36, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_scene(
    folder, times, widths=None, jpegs=False, calib=START, rating=5, finish=None, serials=(FRONT, WRIST)
):
    """times: ms of the frames. widths: commanded millimeters at each."""
    widths = np.full(len(times), 95.0) if widths is None else widths
    for serial in serials:
        camera = folder / f"cam_{serial}"
        camera.mkdir(parents=True)
        if jpegs:
            (camera / "color").mkdir()
            for number, time in enumerate(times):
                Image.new("RGB", (64, 36), (5 * number,) * 3).save(
                    camera / "color" / f"{time}.jpg", quality=98
                )
        else:
            write_video(camera / "color.mp4", len(times))
            pickled(camera / "timestamps.npy", {"color": list(times), "depth": list(times)})
    # Unordered, and with what the API has beside the pose.
    tcp = [{"timestamp": int(time), "tcp": pose(time), "robot_ft": np.zeros(6)} for time in reversed(times)]
    gripper = {
        int(time): {"gripper_command": [width, 77.0, 200.0], "gripper_info": np.array([width + 1, 0, 0])}
        for time, width in zip(times, widths, strict=True)
    }
    pickled(folder / "transformed/tcp_base.npy", dict.fromkeys(serials, tcp))
    pickled(folder / "transformed/gripper.npy", dict.fromkeys(serials, gripper))
    metadata = {"finish_time": finish or int(times[-1]), "rating": rating, "calib": calib, "calib_quality": 3}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def scene(task, number, configuration=1, human=False):
    return f"task_{task:04d}_user_0001_scene_{number:04d}_cfg_{configuration:04d}" + "_human" * human


def write_descriptions(root, **tasks):
    content = {
        task: {"task_description_english": words, "task_description_chinese": "…"}
        for task, words in tasks.items()
    }
    (root / "task_description.json").write_text(json.dumps(content))


def write_calibration(root, serials=(FRONT, WRIST)):
    pickled(root / "calib" / str(START) / "intrinsics.npy", dict.fromkeys(serials, K))


def write_places(root, markers, tool):
    """markers: (4, 4) marker -> camera by serial. tool: the tool's pose, as the robot says it."""
    folder = root / "calib" / str(START)
    pickled(folder / "extrinsics.npy", {serial: matrix[None] for serial, matrix in markers.items()})
    np.save(folder / "tcp.npy", np.asarray(tool, np.float64))
