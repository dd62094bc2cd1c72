"""Writes TFRecords of tf.train.Examples, byte by byte, as the format says."""

import io
import json
import struct

import numpy as np
from PIL import Image

from spatialvla.data.rlds.tfrecord import masked_crc32c

COLOR = (10, 200, 30)
"""Of the pictures that `write_steps` writes."""


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values):
    """Bytes, floats or integers, packed as protobuf packs them."""
    if isinstance(values, list) and all(isinstance(value, bytes) for value in values):
        return block(1, b"".join(block(1, value) for value in values))
    values = np.asarray(values).ravel()
    if values.dtype.kind == "f":
        return block(2, block(1, values.astype("<f4").tobytes()))
    return block(3, block(1, b"".join(varint(int(value)) for value in values)))


def example(features):
    entries = (block(1, name.encode()) + block(2, feature(values)) for name, values in features.items())
    return block(1, b"".join(block(1, entry) for entry in entries))


def record(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def tensor(dtype, shape=(), encoding="none"):
    return {
        "tensor": {"dtype": dtype, "shape": {"dimensions": [str(n) for n in shape]}, "encoding": encoding}
    }


def write_dataset(folder, steps, metadata, episodes, name="made"):
    """steps, metadata: features.json nodes by name. episodes: a dict of stored lists each."""
    folder.mkdir(parents=True)
    sequence = {"sequence": {"feature": {"featuresDict": {"features": steps}}, "length": "-1"}}
    tree = {"featuresDict": {"features": {"steps": sequence, **metadata}}}
    (folder / "features.json").write_text(json.dumps(tree))
    splits = [{"name": "train", "shardLengths": [str(len(episodes))]}]
    (folder / "dataset_info.json").write_text(json.dumps({"name": name, "splits": splits}))
    shard = folder / f"{name}-train.tfrecord-00000-of-00001"
    shard.write_bytes(b"".join(record(example(episode)) for episode in episodes))
    return folder


def write_steps(folder, spec, steps, kind="png", size=None, kept=(True,), of_episodes=None):
    """Episodes as a spec says: pictures of its size or 6x8 pixels, and `steps`: arrays by key.

    Pictures are of COLOR, those of each further camera of 50 more red.
    kept: for each episode, what the feature that tells of its use says; all are alike otherwise.
    of_episodes: flags and texts by key, one for each episode.
    """
    height, width = size or spec.size or (6, 8)
    shape = {"dimensions": [str(height), str(width), "3"]}
    count = len(next(iter(steps.values())))
    nodes, stored = {}, {}
    for number, key in enumerate(spec.images):
        picture = io.BytesIO()
        color = (COLOR[0] + 50 * number, *COLOR[1:])
        Image.new("RGB", (width, height), color).save(picture, kind, quality=100, subsampling=0)
        nodes[key] = {"image": {"dtype": "uint8", "shape": shape, "encodingFormat": kind}}
        stored[f"steps/{key}"] = [picture.getvalue()] * count
    for key, values in steps.items():
        is_text = values.dtype.kind == "U"
        nodes[key] = {"text": {}} if is_text else tensor(str(values.dtype), values.shape[1:])
        stored[f"steps/{key}"] = [text.encode() for text in values.tolist()] if is_text else values
    told = dict(of_episodes or {}) | ({} if spec.keep_if is None else {spec.keep_if: kept})
    of_episode = {
        key: {"text": {}} if isinstance(values[0], str) else tensor("bool") for key, values in told.items()
    }
    episodes = [
        stored
        | {
            key: [values[number].encode()] if isinstance(values[number], str) else np.array(values[number])
            for key, values in told.items()
        }
        for number in range(len(kept))
    ]
    return write_dataset(folder, nodes, of_episode, episodes, spec.name)
