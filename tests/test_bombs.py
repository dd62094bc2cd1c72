"""A few bytes that stand for gigabytes are refused in one sentence, within little memory and time."""

import io
import json
import pickle
import re
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bounded import run_bounded
from spatialvla.common.budget import Budget, OverBudget
from spatialvla.data.lerobot.metadata import read_info
from spatialvla.errors import CheckpointError, InputError
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla_client.codec import pack

HELPERS = "lerobot.async_inference.helpers"

PICKLE = """
import sys
from spatialvla.serving.lerobot.objects import read_object
data = open(sys.argv[1], "rb").read()
bound(64)
try:
    found = read_object(data, sys.argv[2])
    print("read", len(str(found)))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""

RECORDING = """
import sys
from pathlib import Path
from spatialvla.data.rh20t.dictionaries import read_dictionary
bound(64)
try:
    print("read", len(str(read_dictionary(Path(sys.argv[1])))))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""

MAPPING = """
import sys
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.serving.engine.client_mapping import ClientMapping
bound(64)
for kind in (ClientMapping, FeatureMapping):
    try:
        print("read", len(str(kind.load(sys.argv[1]))))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""

INTERFACE = """
from types import SimpleNamespace
from spatialvla.actions.units import UNKNOWN
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_keys import CameraKeys, GripperKeys, StateLayout, StatePart
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.policy_inputs import PolicyInputs
from spatialvla.serving.guard.limits import Limits
camera = CameraKeys("image", depth="depth", intrinsics="intrinsics")
gripper = GripperKeys("state", (0, 1, 2))
mapping = ClientMapping("test", camera, "prompt", states=(StateLayout((StatePart("state"),)),), gripper=gripper)
inputs = PolicyInputs(("image",), ("x", "y", "z"))
service = SimpleNamespace(inputs=inputs, limits=Limits(), units=UNKNOWN, calibration=None, require_all=False)
interface = ClientInterface(mapping, service)
"""

MESSAGE = f"""
import sys
from spatialvla_client.codec import unpack
{INTERFACE}
data = open(sys.argv[1], "rb").read()
bound(64)
try:
    message = unpack(data)
    interface.observation(message)
    interface.gripper_position(message)
    print("read")
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""

TABLE = """
import sys
from pathlib import Path
from spatialvla.data.lerobot.metadata import read_tasks
bound(400)
try:
    print("read", len(read_tasks(Path(sys.argv[1]))))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""

PICTURE = """
import sys
from pathlib import Path
from spatialvla.common.pictures import open_picture
bound(64)
try:
    print("read", open_picture(Path(sys.argv[1])).size)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def doubled(levels: int = 40) -> object:
    """A tuple of two tuples of two tuples …: two to the power of `levels` in all, stored once each."""
    found: object = ()
    for _ in range(levels):
        found = (found, found)
    return found


def pickled(name: str, **state: object) -> bytes:
    """An object of LeRobot's, as its client pickles it, with any state."""
    body = pickle.dumps(state, 4)
    start = body.index(b"}")  # behind the protocol and the frame, which is left out
    return b"\x80\x04" + f"c{HELPERS}\n{name}\n".encode() + b")\x81" + body[start:-1] + b"b."


def cyclic() -> list[object]:
    """A list that holds itself, often."""
    found: list[object] = []
    found.extend([found] * 20)
    return found


def same_array(times: int) -> list[object]:
    """One array again and again."""
    return [np.zeros(200_000)] * times


@pytest.mark.parametrize(
    "state",
    [
        {"pretrained_name_or_path": doubled()},
        {"pretrained_name_or_path": cyclic()},
        {"lerobot_features": {"a": doubled(), "b": doubled()}},
        {"observation": {"a": same_array(5000)}},
        {"observation": {"a": [["x" * 100_000] * 100] * 100}},
    ],
    ids=["doubled", "cyclic", "twice doubled", "one array", "one text"],
)
def test_pickles_that_repeat_themselves(tmp_path: Path, state) -> None:
    path = tmp_path / "message"
    path.write_bytes(pickled("RemotePolicyConfig", **state))
    assert path.stat().st_size < 2_000_000
    said = run_bounded(PICKLE, path, "RemotePolicyConfig")
    assert said.startswith("InputError: The message cannot be read as a RemotePolicyConfig"), said


def test_a_pickle_hashes_nothing_but_text_and_names_nothing_long(tmp_path: Path) -> None:
    path = tmp_path / "message"
    hashed = b"\x80\x04})\x94" + b"h\x00h\x00\x86\x94" * 1 + b"K\x01s."
    for _ in range(60):
        hashed = hashed[:-4] + b"2\x86" + hashed[-4:]  # DUP is no opcode of plain data
    names = (
        b"\x80\x04X"
        + (10**6).to_bytes(4, "little")
        + b"a" * 10**6
        + b"\x94"
        + b"h\x00h\x00\x93" * 9000
        + b"."
    )
    for data in (hashed, names):
        path.write_bytes(data)
        assert run_bounded(PICKLE, path, "TimedObservation", seconds=5).startswith("InputError: ")


def test_an_honest_pickle_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(pickled("TimedObservation", observation={"front": np.ones((480, 640, 3), np.uint8)}))
    assert run_bounded(PICKLE, path, "TimedObservation").startswith("read")


@pytest.mark.parametrize(
    "content", [doubled(), cyclic(), {1: same_array(5000)}], ids=["doubled", "cyclic", "array"]
)
def test_recordings_that_repeat_themselves(tmp_path: Path, content) -> None:
    path = tmp_path / "tcp.npy"
    np.save(path, np.array({"a": content}, object), allow_pickle=True)
    assert run_bounded(RECORDING, path, seconds=60).startswith("CheckpointError: ")


@pytest.mark.parametrize("kind", ["aliases", "merges", "itself"])
def test_yaml_aliases_count_as_what_they_stand_for(tmp_path: Path, kind) -> None:
    levels = range(1, 40)
    doubling = ", ".join(["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in levels)])
    merging = ", ".join(["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in levels)])
    text = {
        "aliases": f"{{action: [{doubling}], image: front, prompt: task}}",
        "merges": f"{{action: {{{merging}}}}}",
        "itself": "action: &a0 [*a0, *a0]\n",
    }[kind]
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    said = run_bounded(MAPPING, path).splitlines()
    assert len(said) == 2
    assert all(re.match(r"InputError: .*(more than \d+ parts|stands for itself)", line) for line in said), (
        said
    )


def test_yaml_anchors_of_honest_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("image: &name front\nprompt: *name\n")
    assert ClientMapping.load(str(path)).prompt == "front"


@pytest.mark.parametrize("key", ["state", "intrinsics", "depth"])
def test_lists_of_text_are_no_numbers(tmp_path: Path, key) -> None:
    path = tmp_path / "message"
    message = {"image": np.zeros((8, 8, 3), np.uint8), "prompt": "pick", key: ["x" * 1_000_000] + [""] * 1023}
    path.write_bytes(pack(message))
    said = run_bounded(MESSAGE, path, seconds=5)
    assert said == f"InputError: '{key}' must be an array of numbers, or lists of numbers of one length.\n"


HARNESS = """
import sys
from pathlib import Path
from spatialvla.errors import InputError
from spatialvla.serving.vla_eval.conventions import BENCHMARKS, PolicyNeeds
from spatialvla.serving.vla_eval.messages import read
data = Path(sys.argv[1]).read_bytes()
bound(64)
try:
    BENCHMARKS["libero"].observation(read(data).payload, PolicyNeeds("image"))
except InputError as error:
    print(f"InputError: {error}")
"""


def test_a_picture_of_the_harness_is_no_list_of_text(tmp_path: Path) -> None:
    path = tmp_path / "message"
    payload = {"images": {"agentview": ["x" * 1_000_000] + [""] * 4000}, "task_description": "pick"}
    path.write_bytes(msgpack.packb({"type": "observation", "payload": payload, "seq": 1}))
    said = run_bounded(HARNESS, path, seconds=5)
    assert said == "InputError: libero sends images.agentview as a picture, but it came as a list.\n"


def test_lists_of_numbers_are_read() -> None:
    named: dict = {}
    exec(INTERFACE, named)
    interface, seen = named["interface"], {"image": np.zeros((4, 4, 3), np.uint8), "prompt": "pick"}
    for numbers in ([1, 2.5, np.float32(3)], np.array([1, 2.5, 3])):
        assert interface.gripper_position({"state": numbers}).tolist() == [1, 2.5, 3]
        assert interface.observation({**seen, "state": numbers}).state.tolist() == [1, 2.5, 3]
    for wrong in ([True, 1, 2], [[1], [1, 2]], [1, [2]], ["1", 2, 3], [], [None] * 3):
        for read in (interface.gripper_position, interface.observation):
            with pytest.raises(InputError, match="'state' must be an array of numbers"):
                read({**seen, "state": wrong})


def test_path_templates_cannot_be_wider_than_a_name(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    info = json.loads((Path(__file__).parent / "data/lerobot_v3/meta/info.json").read_text())
    for template in (
        "{chunk_index:03000000000d}",
        "{chunk_index:100d}",
        "{chunk_index!r:>9999999999}",
        "{chunk_index:{file_index}d}",
        "{x}",
        "{chunk_index",
        "{{chunk_index}}",
        "{chunk_index.__class__}",
    ):
        for key in ("data_path", "video_path"):
            (tmp_path / "meta/info.json").write_text(json.dumps(info | {key: template}))
            with pytest.raises(CheckpointError, match="has a field that is not of the format"):
                read_info(tmp_path)
    (tmp_path / "meta/info.json").write_text(
        json.dumps(info | {"data_path": "d/{episode_chunk:03d}/{episode_index:06d}.parquet"})
    )
    assert read_info(tmp_path).data_path.format(chunk_index=1, file_index=2) == "d/001/000002.parquet"


@pytest.mark.parametrize("kind", ["numbers", "text", "lists"])
def test_parquet_files_that_hold_far_more_than_their_size(tmp_path: Path, kind) -> None:
    numbers = np.zeros(1000, np.int64)
    words = pa.DictionaryArray.from_arrays(numbers.astype(np.int32), ["a" * 5_000_000])
    table = {
        "numbers": lambda: {"task_index": np.zeros(2**26, np.int64)},
        "text": lambda: {"task_index": numbers, "task": words},
        "lists": lambda: {
            "task_index": [0],
            "task": pa.ListArray.from_arrays([0, 2**25], pa.array(np.zeros(2**25, np.int64))),
        },
    }[kind]()
    (tmp_path / "meta").mkdir()
    path = tmp_path / "meta/tasks.parquet"
    pq.write_table(pa.table(table), path, compression="zstd", row_group_size=2**26, data_page_size=2**30)
    assert path.stat().st_size < 400_000
    said = run_bounded(TABLE, tmp_path)
    assert said.startswith("CheckpointError: ")
    assert "holds far more than its size can mean" in said


def test_pictures_of_more_pixels_than_a_camera_has(tmp_path: Path) -> None:
    width, height = 9_000, 8_000  # below Pillow's own limit
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    packer, rows = zlib.compressobj(9), io.BytesIO()
    for _ in range(height):
        rows.write(packer.compress(bytes(1 + 3 * width)))
    rows.write(packer.flush())
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", rows.getvalue()), (b"IEND", b"")):
        png += len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
    path = tmp_path / "picture.png"
    path.write_bytes(png)
    assert "it has 9000 times 8000 pixels" in run_bounded(PICTURE, path)


def test_a_budget_counts_before_it_is_spent() -> None:
    budget = Budget(steps=3, size=10)
    budget.spend(2, 10)
    budget.spend(1)
    with pytest.raises(OverBudget, match="more than 3 parts"):
        budget.spend(1)
    with pytest.raises(OverBudget, match="more than 10 bytes"):
        Budget(steps=3, size=10).spend(size=11)


PACKED = """
import sys
from pathlib import Path
import numpy as np
from spatialvla.data.rlds.example import FeatureList
from spatialvla.data.rlds.features import FeatureSpec, numbers
spec = FeatureSpec("steps/depth", "tensor", np.dtype("float32"), (None,), "zlib", 1)
record = {spec.key: FeatureList(1, memoryview(Path(sys.argv[1]).read_bytes()))}
bound(512)
try:
    numbers(spec, record)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_packed_tensors_that_hold_far_more_than_their_size(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(2**24)) for _ in range(24)), packer.flush()])
    length, rest = b"", len(packed)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    path = tmp_path / "list"
    path.write_bytes(b"\x0a" + length + bytes([rest]) + packed)
    said = run_bounded(PACKED, path, seconds=10)
    assert said.startswith("CheckpointError: 'steps/depth' cannot be unpacked (it takes more than")
