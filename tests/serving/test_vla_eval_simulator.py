"""The harness's LIBERO and ours, side by side: the same start state, and the same motion for the same actions."""

import numpy as np
import pytest

from spatialvla.serving.vla_eval.commands import Commands
from spatialvla.serving.vla_eval.conventions import LIBERO, PolicyNeeds

PUBLISHED = ("x", "y", "z", "rx", "ry", "rz", "gripper_1", "gripper_2")
pytestmark = pytest.mark.sim


def test_the_harness_moves_the_arm_as_our_evaluation_does() -> None:
    from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
    from vla_eval.recording import NullEpisodeRecorder

    from spatialvla.simulation.libero.env import LiberoEnv
    from spatialvla.simulation.libero.tasks import tasks
    from spatialvla.simulation.libero.viewpoints import WRIST_CAMERA
    from spatialvla.simulation.recording.demonstration import STATE_NAMES

    number, start_state = 4, 3
    needs, recorded = (
        PolicyNeeds("image", ("wrist",), LIBERO.state_for(names)) for names in (PUBLISHED, STATE_NAMES)
    )
    parameters = LIBERO.parameters_for(needs)
    harness = LIBEROBenchmark("libero_spatial", seed=7, **parameters)
    harness._recorder = NullEpisodeRecorder()
    task = {**harness.get_tasks()[number], "episode_idx": start_state}
    raw = harness.reset(task)
    ours = LiberoEnv(tasks("libero_spatial")[number], LIBERO.camera.height)
    ours.reset_to(ours.task.start_states()[start_state])
    ours.settle()
    theirs = harness._env.env.sim.data

    seen = LIBERO.observation(harness.make_obs(raw, task), needs)
    assert seen.instruction == ours.task.language
    assert np.allclose(seen.intrinsics, ours.intrinsics)
    # Fixtures stand elsewhere, within a centimeter or two: the stored start states do not say where.
    with ours.looking_through(WRIST_CAMERA):
        wrist = ours.render()
        assert np.allclose(seen.images["wrist"].intrinsics, ours.intrinsics)
    for theirs_shown, ours_shown in ((seen.image, ours.render()), (seen.images["wrist"].image, wrist)):
        differing = np.abs(theirs_shown.astype(int) - ours_shown).max(axis=2) > 8
        assert differing.mean() < 0.1
    assert np.allclose(seen.state, ours.proprioception(published=True), atol=1e-3)
    of_fingertips = LIBERO.observation(harness.make_obs(raw, task), recorded).state
    assert np.allclose(of_fingertips, ours.proprioception(), atol=1e-3)
    assert np.abs(seen.state - of_fingertips).max() > 1, "the two are not to be mixed up"

    assert np.allclose(theirs.qpos, ours.data.qpos, atol=1e-7)
    rng = np.random.default_rng(0)
    commands = Commands(LIBERO)
    for step in range(8):
        action = np.r_[rng.uniform(-0.6, 0.6, 3), rng.uniform(-0.2, 0.2, 3), step % 3 != 0]
        commands.extend(action[None])
        harness.step({"actions": commands.next()})
        ours.step(action)
    assert np.allclose(theirs.qpos, ours.data.qpos, atol=1e-6)
    harness.cleanup()
    ours.simulator.close()
