"""What changes for a policy when LIBERO is drawn at 256 pixels and shrunk, as in vla-eval, instead of at its own size.

MUJOCO_GL=egl python benchmarks/image_sizes.py --tasks 2 9

The policy drives by pictures drawn at its own size; at each decision it is also asked about the larger
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from spatialvla import Observation, Policy
from spatialvla.geometry.camera import View
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.tasks import tasks, time_limit


@dataclass(frozen=True)
class Options:
    policy: str = "nano"
    suite: str = "libero_spatial"
    tasks: tuple[int, ...] = (2, 9)
    start_states: int = 1
    large: int = 256


def main(options: Options) -> None:
    policy = Policy.from_pretrained(options.policy)
    size = policy.processor.image_size
    pixels, same, same_gripper, moves, turns, lengths = [], [], [], [], [], []
    for number in options.tasks:
        task = tasks(options.suite)[number]
        env = LiberoEnv(task, size)
        for state in task.start_states()[: options.start_states]:
            env.reset_to(state)
            env.settle()
            done = False
            for _ in range(0, time_limit(options.suite), policy.processor.action_chunk_size):
                seen = []
                for env.image_size in (options.large, size):
                    seen.append(Observation(env.render(), task.language, env.intrinsics))
                shrunk, own = (View.of(each.image).resized(size).image.astype(float) for each in seen)
                large, small = (policy.predict([each])[0] for each in seen)
                pixels.append(float(np.abs(shrunk - own).mean()))
                same.append((large.tokens == small.tokens).mean(axis=0))
                same_gripper.append((large.tokens[:, 2] == small.tokens[:, 2]).all())
                moves.append(np.linalg.norm(large.actions[:, :3] - small.actions[:, :3], axis=1).mean())
                turns.append(np.linalg.norm(large.actions[:, 3:6] - small.actions[:, 3:6], axis=1).mean())
                lengths.append(np.linalg.norm(small.actions[:, :3], axis=1).mean())
                for action in small.actions:
                    done = done or env.step(action)
                if done:
                    break
        env.close()
    translation, rotation, gripper = np.mean(same, axis=0)
    print(
        f"{len(same)} decisions of {options.policy}, drawn at {size} and at {options.large} pixels, then shrunk"
    )
    print(f"pixels differ by {np.mean(pixels):.2f} of 255 in the mean")
    print(f"equal tokens: translation {translation:.0%}, rotation {rotation:.0%}, gripper {gripper:.0%}")
    print(f"chunks with all gripper tokens equal: {np.mean(same_gripper):.0%}")
    print(
        f"translations differ by {np.mean(moves):.3f} of a mean length of {np.mean(lengths):.3f} (1 = 5 cm)"
    )
    print(f"rotations differ by {np.mean(turns):.3f} (1 = 0.5 rad)")


if __name__ == "__main__":
    main(tyro.cli(Options))
