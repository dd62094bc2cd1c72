"""Raw actions of each Open X-Embodiment dataset -> (T, 7): Δx Δy Δz Δroll Δpitch Δyaw gripper (1 = open).

Every function is given the arrays its `RLDSSpec` lists, of T steps each, and has no other input. Units stay
the dataset's own: statistics scale them later. The conventions are those that Octo, OpenVLA and SpatialVLA
trained with, so that published statistics fit, but for `rh20t`; `bc_z` therefore keeps its rotation vectors,
which for its small turns are roll, pitch and yaw.
"""

from __future__ import annotations

import numpy as np

from spatialvla.data.hand_motions import clipped, from_closing_commands, inverted, settled
from spatialvla.errors import InputError
from spatialvla.geometry.rotations import euler, matrices, motion

_REACH = 10.0  # meters, more than any arm's


def closing_commands(translation: np.ndarray, rotation: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """fractal, kuka, berkeley_autolab_ur5: deltas in a dictionary, gripper commands that close or open."""
    return _joined(translation, rotation, from_closing_commands(closing.reshape(len(translation))))


def closed_fraction(translation: np.ndarray, rotation: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """roboturk, viola: the same with a gripper that is told how far to be closed."""
    return _joined(translation, rotation, inverted(clipped(closed.reshape(len(translation)))))


def open_flag(translation: np.ndarray, rotation: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """toto: the same with a flag."""
    return _joined(translation, rotation, is_open.reshape(len(translation)).astype(np.float64))


def jaco_play(translation: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """No rotation."""
    return closing_commands(translation, np.zeros_like(translation), closing)


def berkeley_cable_routing(translation: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The gripper holds the cable all the time."""
    return _joined(translation, rotation, np.zeros(len(translation)))


def language_table(action: np.ndarray) -> np.ndarray:
    """A stick pushed over a table: Δx and Δy alone."""
    nothing = np.zeros((len(action), 4))
    return np.concatenate([action, nothing, np.ones((len(action), 1))], axis=1)


def seven(action: np.ndarray) -> np.ndarray:
    """fmb, dobbe, ucsd_kitchen, cmu_stretch: as it is, without the termination behind the gripper."""
    return action[:, :7].astype(np.float64)


def seven_open_clipped(action: np.ndarray) -> np.ndarray:
    """taco_play, maniskill: opening is positive, closing negative."""
    return _joined(action[:, :3], action[:, 3:6], clipped(action[:, -1]))


def seven_settled(action: np.ndarray) -> np.ndarray:
    """tdroid: 1 = open, measured on its way between."""
    return _joined(action[:, :3], action[:, 3:6], settled(action[:, -1]))


def without_gripper(action: np.ndarray) -> np.ndarray:
    """kaist_nonprehensile: a closed hand pushes; behind its motion stand gains of the joints."""
    return berkeley_cable_routing(action[:, :3], action[:, 3:6])


def seven_closed(action: np.ndarray) -> np.ndarray:
    """stanford_hydra, dlr_edan: 1 = closed."""
    return _joined(action[:, :3], action[:, 3:6], inverted(action[:, -1]))


def seven_closed_clipped(action: np.ndarray) -> np.ndarray:
    """austin_buds, austin_sailor, austin_sirius, utaustin_mutex, LIBERO: 1 = closed, -1 or 0 = open."""
    return _joined(action[:, :3], action[:, 3:6], inverted(clipped(action[:, -1])))


def nyu_franka_play(action: np.ndarray) -> np.ndarray:
    """15 numbers: joint velocities, the motion of the hand, gripper, termination."""
    return _joined(action[:, -8:-5], action[:, -5:-2], clipped(action[:, -2]))


def furniture_bench(action: np.ndarray) -> np.ndarray:
    """Rotation as a quaternion, x y z w; the gripper closes at +1 and opens at -1."""
    return _joined(action[:, :3], roll_pitch_yaw(action[:, 3:7]), inverted(clipped(action[:, -1])))


def iamlab_cmu_pickup_insert(action: np.ndarray) -> np.ndarray:
    """Rotation as a quaternion, x y z w; 1 = open."""
    return _joined(action[:, :3], roll_pitch_yaw(action[:, 3:7]), action[:, 7])


def bc_z(translation: np.ndarray, rotation: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Residuals over ten future steps, of which the first is meant; integers tell whether to close."""
    return _joined(translation[:, :3], rotation[:, :3], inverted(closed[:, 0].astype(np.float64)))


def berkeley_fanuc(action: np.ndarray, state: np.ndarray) -> np.ndarray:
    """No gripper among the actions; the state's, 1 = closed, stands in."""
    return _joined(action[:, :3], action[:, 3:6], inverted(state[:, 6]))


def droid(velocity: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Velocity of the hand in the robot's base frame; 1 = closed."""
    return _joined(velocity[:, :3], velocity[:, 3:6], inverted(closed.reshape(len(velocity))))


def rh20t(observed: np.ndarray, reached: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    """rh20t_rlds: poses x y z roll pitch yaw of the tool in the robot's base frame, now and a step later.

    Its actions are the later poses, which the published code learned as they are (q01 to q99 of x: 0.36 to 0.75 m);
    here they are the motion between both, as everywhere else. Raises InputError for a pose that no arm reaches:
    some of its numbers go up to 1e36.
    """
    farthest = np.abs(np.stack([observed, reached])[..., :3]).max(initial=0.0)
    if farthest > _REACH:
        raise InputError(
            f"a pose lies {farthest:.3g} m from the robot's base, where no arm reaches; leave the episode out."
        )
    before, after = (matrices(poses[:, 3:], "euler") for poses in (observed, reached))
    moved = motion(observed[:, :3], before, reached[:, :3], after, "base")
    return _joined(moved[:, :3], moved[:, 3:], gripper.reshape(len(moved)).astype(np.float64))


def bridge(action: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Commands are not what the arm did: the motion is taken from the states, so the last step has none.

    Returns (T - 1, 7). The gripper's commands are measured openings.
    """
    motion = np.diff(state[:, :6].astype(np.float64), axis=0)
    return _joined(motion[:, :3], motion[:, 3:], settled(action[:, -1])[:-1])


def roll_pitch_yaw(quaternion: np.ndarray) -> np.ndarray:
    """(T, 4) x y z w -> (T, 3) radians, of the rotation Rz(yaw) Ry(pitch) Rx(roll)."""
    return euler(matrices(quaternion, "quaternion_xyzw"))


def _joined(translation: np.ndarray, rotation: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    return np.concatenate([translation, rotation, gripper[:, None]], axis=1, dtype=np.float64)
