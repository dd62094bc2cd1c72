"""One LIBERO task as an environment: built once, run for many episodes, drawn only on demand.

Images are the raw robosuite frame rotated by 180°, as every LIBERO dataset has them. The raw frame is stored
bottom row first, so the rotated one is upright but mirrored left to right: objects at positive world y, which
the camera really sees on its right, are drawn on the left. `intrinsics` describe that mirrored picture as an
ordinary pinhole camera (positive focal lengths), and the mirroring is part of `camera_pose`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from spatialvla.errors import InputError
from spatialvla.geometry.camera import LARGEST_DEPTH
from spatialvla.geometry.extrinsics import check_extrinsics, inverse, mirror_extrinsics, pose_matrix
from spatialvla.geometry.rotations import PANDA_DOWN, towards
from spatialvla.simulation.action import checked_action
from spatialvla.simulation.libero.rendering import AT_HAND, FROM_AFAR, meters, thin_meshes
from spatialvla.simulation.libero.tasks import Task, libero
from spatialvla.types import CameraImage

# What the benchmark does while objects fall into place: no motion, gripper open.
SETTLING_ACTION = np.array([0, 0, 0, 0, 0, 0, 1.0])
SETTLING_STEPS = 10
_LARGEST_SHIFT = 0.1  # meters along the table that a thing may move while settling
_ARM_SPREAD = 0.02  # radians, of each joint at the start (deviation): robosuite's, as in the stored states
FPS = 20  # control steps a second
ACTION_UNITS = (0.05, 0.5)  # meters and radians of one unit of an action, in LIBERO's OSC_POSE controller
_GRIPPER_SIZE, _GOAL_SIZE = 2, 9  # the fingers' commands; the controller's goal orientation, a matrix


class LiberoEnv:
    """A LIBERO task with the benchmark's physics at 20 control steps a second.

    rendering: `stock` draws as the benchmark does; `fast` thins meshes finer than a pixel of the scene's camera,
    `near` those finer than a pixel of the camera on the wrist.
    initial_rotation: (3, 3) `gripper_rotation` at the start of every episode.
    """

    def __init__(
        self,
        task: Task,
        image_size: int = 128,
        camera: str = "agentview",
        rendering: Literal["stock", "fast", "near"] = "stock",
    ) -> None:
        libero()
        import mujoco
        from libero.libero.envs import OffScreenRenderEnv

        self.task = task
        self.image_size = image_size
        self.camera = camera
        self._mujoco = mujoco
        with _seeded(0):
            self.simulator: Any = OffScreenRenderEnv(
                bddl_file_name=str(task.bddl),
                camera_names=[camera],
                use_camera_obs=False,
                hard_reset=False,
                ignore_done=True,
            ).env
        self._sim = self.simulator.sim
        self.model, self.data = self._sim.model._model, self._sim.data._data
        self._robot = self.simulator.robots[0]
        self._fixtures = [self.simulator.obj_body_id[name] for name in self.simulator.fixtures_dict]
        self._unplaced = [_pose_in_model(self.simulator, body) for body in self._fixtures]
        self._sim_size = 1 + self.model.nq + self.model.nv
        self._substeps = round(self.simulator.control_timestep / self.simulator.model_timestep)
        self._robot.gripper.current_action = np.zeros(_GRIPPER_SIZE)
        self.initial_rotation = self.gripper_rotation
        if rendering != "stock":
            thin_meshes(self.model, AT_HAND if rendering == "near" else FROM_AFAR)
            context = self._sim._render_context_offscreen
            context.con.free()
            context._set_mujoco_context_and_buffers()

    # ---------------------------------------------------------------- episodes

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """Moves to a fresh start state drawn by LIBERO's own placement sampler, and returns `state()`.

        The arm's joints are drawn, too, as in the benchmark's stored states: its hand is a centimeter elsewhere.
        Now and then the sampler puts one thing into another and they fly apart; such draws are repeated.
        """
        while True:
            self._reset(int(rng.integers(2**31)))
            self.data.qpos[self._robot._ref_joint_pos_indexes] += rng.normal(scale=_ARM_SPREAD, size=7)
            self._sim.forward()
            start, positions = self.state(), self._positions()
            self.settle()
            if np.linalg.norm(self._positions() - positions, axis=1).max() < _LARGEST_SHIFT:
                self.reset_to(start)
                return start

    def reset_to(self, state: np.ndarray) -> None:
        """Moves to one of the benchmark's stored start states, or to anything `state()` returned.

        A stored state does not say where the fixtures (cabinet, stove) stand; as in the benchmark they are
        sampled, here with a seed drawn from the state itself so that it always gives the same scene.
        Raises InputError if the state belongs to another task.
        """
        state = np.asarray(state, dtype=np.float64)
        full = self._sim_size + 7 * len(self._fixtures) + _GRIPPER_SIZE + _GOAL_SIZE
        if state.shape not in {(self._sim_size,), (full,)}:
            raise InputError(
                f"A state of {self.task.name} has {self._sim_size} or {full} numbers, not {state.shape}; "
                "take it from the same task."
            )
        self._reset(zlib.crc32(state.tobytes()))
        self._sim.set_state_from_flattened(state[: self._sim_size])
        if len(state) == full:
            poses, gripper, goal = np.split(state[self._sim_size :], [7 * len(self._fixtures), -_GOAL_SIZE])
            self._place_fixtures(poses.reshape(-1, 7))
            self._robot.gripper.current_action = gripper.copy()
            self._robot.controller.goal_ori = goal.reshape(3, 3).copy()
            self._robot.controller.new_update = True  # else it acts once on where the arm was before
        self._sim.forward()
        self.simulator._post_process()

    def state(self) -> np.ndarray:
        """Everything needed to come back here: `reset_to(state())` continues the same motion.

        (N,) float64: MuJoCo's time, positions and velocities as LIBERO stores them, then each fixture's
        position and quaternion, the gripper's command and the controller's goal orientation.
        """
        poses = [np.r_[self.model.body_pos[body], self.model.body_quat[body]] for body in self._fixtures]
        return np.concatenate(
            [
                self._sim.get_state().flatten(),
                *poses,
                self._robot.gripper.current_action,
                self._robot.controller.goal_ori.ravel(),
            ]
        )

    def settle(self, steps: int = SETTLING_STEPS) -> None:
        """Lets the objects fall into place, as the benchmark does before each episode."""
        for _ in range(steps):
            self.step(SETTLING_ACTION)

    def step(self, action: np.ndarray) -> bool:
        """Runs one control step (50 ms) without drawing; True once the task's goal holds.

        action: (7,) in units of LIBERO's controller (1 = 5 cm or 0.5 rad), gripper in [0, 1] with 1 = open.
        Raises InputError if it is anything else.
        """
        action = checked_action(action)
        command = np.r_[np.clip(action[:6], -1, 1), 1 - 2 * float(action[6])]
        # robosuite evaluates the dynamics three times a substep; splitting MuJoCo's step around the
        # controller needs one evaluation for bit by bit the same motion.
        self._sim.forward = _nothing
        for substep in range(self._substeps):
            self._mujoco.mj_step1(self.model, self.data)
            self._robot.control(command, policy_step=substep == 0)
            self._mujoco.mj_step2(self.model, self.data)
        del self._sim.forward
        self.simulator._post_process()
        success = self.success()
        self._sim.forward()
        return success

    def success(self) -> bool:
        """Whether LIBERO's own goal predicate holds."""
        return bool(self.simulator._check_success())

    # ------------------------------------------------------------ observations

    def render(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the camera, rotated by 180° (see the module's docstring)."""
        return np.array(self._draw(depth=False)[::-1, ::-1])

    def render_depth(self) -> np.ndarray:
        """(H, W) float32 meters along the optical axis, pixel for pixel as `render`."""
        return self.render_rgbd()[1]

    def render_rgbd(self) -> tuple[np.ndarray, np.ndarray]:
        """`render` and `render_depth` for the price of one; depth is 0 where there is nothing."""
        image, z_buffer = self._draw(depth=True)
        extent = self.model.stat.extent
        depth = meters(z_buffer, self.model.vis.map.znear * extent, self.model.vis.map.zfar * extent)
        # What is further away than sensors see is empty space, where nothing was measured.
        depth = np.where(depth > LARGEST_DEPTH, 0, depth)
        return image[::-1, ::-1].copy(), depth[::-1, ::-1].astype(np.float32)

    def look(self, depth: bool = False) -> CameraImage:
        """What the present camera sees, for a policy: `render`, K, its place, and the depth if asked for."""
        image, measured = self.render_rgbd() if depth else (self.render(), None)
        return CameraImage(image, self.intrinsics, measured, self.extrinsics, mirrored=True)

    def _draw(self, depth: bool) -> Any:
        # Another environment of this process may have drawn, or been closed, since.
        self._sim._render_context_offscreen.gl_ctx.make_current()
        return self._sim.render(
            width=self.image_size, height=self.image_size, camera_name=self.camera, depth=depth
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """K (3, 3) in pixels of `render`, with pixel centers at half integers."""
        fovy = np.deg2rad(self.model.camera(self.camera).fovy[0])
        focal = self.image_size / 2 / np.tan(fovy / 2)
        center = self.image_size / 2
        return np.array([[focal, 0, center], [0, focal, center], [0, 0, 1]])

    @property
    def camera_pose(self) -> np.ndarray:
        """(4, 4) from the camera frame of `intrinsics` (x right, y down, z forward) to the world, in meters.

        Its determinant is −1: the rotated picture is mirrored, so its x axis points to the true left.
        """
        camera = self.data.camera(self.camera)
        pose = np.eye(4)
        pose[:3, :3] = camera.xmat.reshape(3, 3) @ np.diag([-1.0, -1.0, -1.0])
        pose[:3, 3] = camera.xpos
        return pose

    @property
    def extrinsics(self) -> np.ndarray:
        """(4, 4) camera -> robot base, in meters, of the real camera: `render` shows what it sees mirrored.

        The base is that of the arm, which stands elsewhere in the world in each kind of scene.
        """
        extrinsics: np.ndarray = inverse(self.base_pose) @ mirror_extrinsics(self.camera_pose)
        return extrinsics

    @property
    def base_pose(self) -> np.ndarray:
        """(4, 4) robot base -> world, in meters."""
        base = self.data.body(self._robot.robot_model.root_body)
        return pose_matrix(np.array(base.xpos), base.xmat.reshape(3, 3))

    def place_camera(self, pose: np.ndarray) -> None:
        """Stands the camera elsewhere, for all that is drawn from now on.

        pose: (4, 4) camera (x right, y down, z forward) -> world, in meters: of the camera itself, which does
        not mirror. Raises InputError where it is no rigid motion, and for a camera that moves with the robot.
        """
        camera = self.model.camera(self.camera).id
        if self.model.cam_bodyid[camera] != 0:
            raise InputError(f"The camera {self.camera} is fixed to the robot and cannot be placed.")
        pose = check_extrinsics(pose)
        # MuJoCo's cameras look along -z with y up.
        turn = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
        self.model.cam_pos[camera] = pose[:3, 3]
        self._mujoco.mju_mat2Quat(self.model.cam_quat[camera], turn.ravel())
        self._mujoco.mj_camlight(self.model, self.data)

    @contextmanager
    def looking_through(self, camera: str, pose: np.ndarray | None = None) -> Iterator[None]:
        """All that is drawn, and said of the camera, inside the block is of another camera of the simulator's.

        pose: where it stands inside the block, as in `place_camera`; None where it is. The motion of the arm is
        not touched.
        """
        usual, self.camera = self.camera, camera
        index = self.model.camera(camera).id
        position, turn = self.model.cam_pos[index].copy(), self.model.cam_quat[index].copy()
        try:
            if pose is not None:
                self.place_camera(pose)
            yield
        finally:
            self.camera = usual
            if pose is not None:
                self.model.cam_pos[index], self.model.cam_quat[index] = position, turn
                self._mujoco.mj_camlight(self.model, self.data)

    def start_arm_at(self, joints: np.ndarray) -> None:
        """The arm's initial joints (7,), in radians, in all episodes from now on.

        As in robosuite: a stored start state puts the joints where it says, but the controller goes on holding
        the orientation of these, and draws the arm's redundant joint towards them.
        """
        self._robot.init_qpos = np.array(joints, np.float64)

    def proprioception(self, *, published: bool = False) -> np.ndarray:
        """(8,) float64: gripper position in the world (m), axis-angle orientation, two finger joints.

        The orientation is `gripper_rotation`. published: as in LIBERO's own datasets and of stock clients, it is the
        hand's, whose axes stand otherwise. A hand that points down is turned by half a turn, where a rotation vector
        may as well be its opposite; ours never jumps there, so it may be longer than a half turn.
        """
        from robosuite.utils.transform_utils import convert_quat, mat2quat, quat2axisangle

        quaternion = mat2quat(self.gripper_rotation)
        if published:
            quaternion = convert_quat(self.data.body(self._robot.robot_model.eef_name).xquat, to="xyzw")
        orientation = quat2axisangle(np.array(quaternion))
        if not published:
            orientation = towards(PANDA_DOWN, orientation)
        fingers = self.data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self.gripper_position, orientation, fingers])

    @property
    def gripper_position(self) -> np.ndarray:
        """(3,) meters in the world: the point between the fingertips."""
        return np.array(self.data.site_xpos[self._robot.eef_site_id])

    @property
    def gripper_rotation(self) -> np.ndarray:
        """(3, 3) of the gripper in the world; the fingers slide along its x axis and point along z."""
        return np.array(self.data.site_xmat[self._robot.eef_site_id]).reshape(3, 3)

    def close(self) -> None:
        """Gives the renderer back."""
        self.simulator.close()

    # ----------------------------------------------------------------- inside

    def _positions(self) -> np.ndarray:
        """(N, 2) meters: where the movable things stand."""
        bodies = [self.simulator.obj_body_id[name] for name in self.simulator.objects_dict]
        return np.array(self.data.xpos[bodies, :2])

    def _place_fixtures(self, poses: Iterable[np.ndarray]) -> None:
        for body, pose in zip(self._fixtures, poses, strict=True):
            self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]

    def _reset(self, seed: int) -> None:
        from robosuite.utils.errors import RandomizationError

        with _seeded(seed):
            while True:
                # The sampler adds to the pose it finds, so each sampling has to start from the model's own.
                self._place_fixtures(self._unplaced)
                try:
                    self.simulator.reset()
                    break
                except RandomizationError:  # no room was found; LIBERO tries again, too
                    continue
        # A new robot's command, which robosuite would otherwise keep from the last episode.
        self._robot.gripper.current_action = np.zeros(_GRIPPER_SIZE)


def _pose_in_model(simulator: Any, body: int) -> np.ndarray:
    """(7,) position and quaternion of a body in the scene file, before LIBERO places it."""
    name = simulator.sim.model.body_id2name(body)
    element = simulator.model.root.find(f".//body[@name='{name}']")
    pose = element.get("pos", "0 0 0") + " " + element.get("quat", "1 0 0 0")
    return np.array([float(number) for number in pose.split()])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """LIBERO samples from NumPy's global generator: seeds it inside, and leaves it untouched afterwards."""
    saved = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(saved)  # noqa: NPY002


def _nothing() -> None:
    pass
