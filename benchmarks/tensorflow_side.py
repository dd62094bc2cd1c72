"""What the benchmarks of data compare with, run by a Python that has TensorFlow: passes over RLDS shards by tf.data.

Reads one JSON command a line, answers with one: {"pass": NAME, "episodes": n, …} -> {"count", "wall", "cpu",
"rss"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import islice

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_datasets as tfds


class Side:
    def __init__(self, root: str) -> None:
        self.root = root
        self.builder = tfds.builder_from_directory(root)

    def raw(self):
        """The records' bytes alone, checksums verified; nothing is parsed."""
        return tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(f"{self.root}/*.tfrecord*")))

    def tensors(self):
        """Steps as stacked tensors, images as files: how Octo and OpenVLA read, through dlimp."""
        return self.builder.as_dataset(split="train", decoders={"steps": tfds.decode.SkipDecoding()})

    def nested(self):
        """Steps as a dataset in each episode, as TFDS gives them, all of them visited; images as files."""
        images = [key for key, feature in self.builder.info.features["steps"]["observation"].items()
                  if isinstance(feature, tfds.features.Image)]  # fmt: skip
        skipped = {"observation": {key: tfds.decode.SkipDecoding() for key in images}}
        for episode in self.builder.as_dataset(split="train", decoders={"steps": skipped}):
            yield sum(1 for _ in episode["steps"])

    def samples(self, buffer: int, batch: int, size: int):
        """Decoded, resized, in a shuffle buffer of decoded frames, augmented, in batches; the published strengths."""

        def frames(episode):
            steps = episode["steps"]
            length = tf.shape(steps["action"])[0]
            rows = tf.minimum(tf.range(length)[:, None] + tf.range(4), length - 1)
            return tf.data.Dataset.from_tensor_slices(
                (
                    steps["observation"]["image_0"],
                    tf.gather(steps["action"], rows),
                    steps["language_instruction"],
                )
            )

        def decoded(image, actions, text):
            pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
            pixels = tf.image.resize(pixels, (size, size), method="bicubic", antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8), actions, text

        def augmented(image, actions, text):
            side = tf.sqrt(tf.random.uniform([], 0.9, 1.0))
            corner = tf.random.uniform([2]) * (1 - side)
            box = tf.concat([corner, corner + side], 0)
            image = tf.image.convert_image_dtype(image, tf.float32)
            image = tf.image.crop_and_resize(image[None], box[None], [0], (size, size))[0]
            image = tf.image.random_brightness(image, 0.2)
            image = tf.image.random_contrast(image, 0.8, 1.2)
            image = tf.image.random_saturation(image, 0.8, 1.2)
            image = tf.image.random_hue(image, 0.05)
            return tf.clip_by_value(image, 0, 1), actions, text

        parallel = tf.data.AUTOTUNE
        return (
            self.tensors()
            .repeat()
            .interleave(frames, cycle_length=8, num_parallel_calls=parallel)
            .map(decoded, parallel)
            .shuffle(buffer)
            .map(augmented, parallel)
            .batch(batch)
            .prefetch(2)
        )


def main() -> None:
    # Answers have a descriptor of their own: libraries print to the other.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = Side(sys.argv[1])
    running = None
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("pass")
        limit = command.pop("episodes", None)
        wall, cpu = time.perf_counter(), time.process_time()
        if name == "samples" and "batches" in command:
            batches, batch = command.pop("batches"), command["batch"]
            if running is None or running[0] != command:
                running = (dict(command), iter(side.samples(**command)))
            count = sum(len(item[0]) for item in islice(running[1], batches))
            assert count == batches * batch
        else:
            dataset = getattr(side, name)(**command)
            count = sum(1 for _ in islice(dataset, limit))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        with open("/proc/self/statm") as statm:
            rss = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        print(json.dumps({"count": count, "wall": wall, "cpu": cpu, "rss": rss}), file=answers, flush=True)


if __name__ == "__main__":
    main()
