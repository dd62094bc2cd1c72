"""SimplerEnv's four WidowX tasks in ManiSkill 3: stepped without drawing, drawn only on demand.

The robot's base frame has x forward, y left and z up; the tool's x axis points along the fingers and its y
axis across them. ManiSkill works in SimplerEnv's world, in which the base is turned by half a circle.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import inverse, pose_matrix
from spatialvla.geometry.rotations import matrices, notated
from spatialvla.simulation.action import checked_action
from spatialvla.simulation.widowx.places import Places, draw_places

SUITE = "simpler_widowx"
CONTROL_HZ = 5
START_STATES = 24
CAMERA = "3rd_view_camera"
_SCENES = "tasks/bridge_v2_real2sim_dataset"
_ROBOT = "robots/widowx/wx250s.urdf"
_ARM_SPREAD = 0.02  # radians, of each joint in a sampled start state (deviation), as in LIBERO's
_LARGEST_SHIFT = 0.1  # meters that a thing may move while it settles
_FINGERS = 2
_STILL = 0.06  # radians a second; arms that push against something creep
_OPEN = 0.5  # above this the policy's gripper is open, in SimplerEnv's wrapper of SpatialVLA


@dataclass(frozen=True)
class WidowXTask:
    """environment: its name in ManiSkill 3. time_limit: control steps an episode has."""

    environment: str
    instruction: str
    time_limit: int


TASKS = (
    WidowXTask("PutCarrotOnPlateInScene-v1", "put carrot on plate", 60),
    WidowXTask("PutSpoonOnTableClothInScene-v1", "put the spoon on the towel", 60),
    WidowXTask(
        "StackGreenCubeOnYellowCubeBakedTexInScene-v1", "stack the green block on the yellow block", 60
    ),
    WidowXTask("PutEggplantInBasketScene-v1", "put eggplant into yellow basket", 120),
)


def command(action: np.ndarray) -> np.ndarray:
    """A policy's action (7,) -> what ManiSkill 3's controller of these tasks takes, (7,) float32.

    The translation stays as it is. SimplerEnv turns Δroll, Δpitch, Δyaw into the axis and angle of
    Rz(yaw) Ry(pitch) Rx(roll), which ManiSkill 2 executes; ManiSkill 3 reads its three numbers as the angles
    of Rx(a) Ry(b) Rz(c) instead, so the same rotation is given to it in that form. The gripper is open, +1,
    above 0.5, and closed, −1, else (SpatialVLA's wrapper in SimplerEnv, policies/spatialvla).
    Raises InputError unless the action is 7 finite numbers.
    """
    action = checked_action(action)
    (turn,) = matrices(action[None, 3:6], "euler")
    angles = [
        np.arctan2(-turn[1, 2], turn[2, 2]),
        np.arcsin(np.clip(turn[0, 2], -1, 1)),
        np.arctan2(-turn[0, 1], turn[0, 0]),
    ]
    return np.array([*action[:3], *angles, 1.0 if action[6] > _OPEN else -1.0], dtype=np.float32)


class WidowXEnv:
    """One task, built once and played many times.

    Raises InputError where ManiSkill, SimplerEnv's scenes or a renderer is missing.
    """

    def __init__(self, task: WidowXTask) -> None:
        gymnasium = _mani_skill()
        self.task = task
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "Creating a tensor from a list of numpy.ndarrays", UserWarning
                )
                self._env: Any = gymnasium.make(
                    task.environment,
                    obs_mode="rgb+segmentation",
                    num_envs=1,
                    sim_backend="cpu",
                    render_backend="cpu",
                ).unwrapped
        except RuntimeError as error:
            if "vk::" in str(error) or "render" in str(error).lower():
                raise InputError(
                    f"ManiSkill's renderer does not start ({error}); `make simpler` installs Vulkan drivers."
                ) from error
            raise
        self.photograph = np.asarray(Image.open(self._env.rgb_overlay_paths[CAMERA]).convert("RGB"))
        self.grasped = False

    def reset_to(self, start_state: int) -> None:
        """Places robot and objects as SimplerEnv's episode of that number does, and lets the objects settle.

        The scene is built anew each time, as SimplerEnv does: PhysX keeps a joint's history over a mere
        reset, and the same actions would then move the arm differently.
        """
        import torch  # not above: the processes that play LIBERO import this file, and need no torch

        # ManiSkill 3 takes the number itself; SimplerEnv's older nesting under "obj_init_options" it ignores.
        self._env.reset(seed=0, options={"episode_id": torch.tensor([start_state]), "reconfigure": True})
        self.grasped = False

    def sample_state(self, rng: np.random.Generator) -> None:
        """Places the objects anew, never as in one of SimplerEnv's episodes, and lets them settle.

        The arm's joints are drawn, too: its hand is a centimeter elsewhere. Now and then a thing is put into the wall
        of the sink and flies off; such draws are repeated.
        """
        import torch

        stored, places = (self._env.xyz_configs, self._env.quat_configs), self.stored_places()
        settled = False
        while not settled:
            drawn = draw_places(rng, places)
            self._env.xyz_configs = torch.from_numpy(drawn.positions)[None]
            self._env.quat_configs = torch.from_numpy(drawn.orientations)[None]
            self.reset_to(0)
            found = self._env.objs[self._env.source_obj_name].pose.p[0].numpy()
            settled = bool(np.linalg.norm(found - drawn.positions[0]) < _LARGEST_SHIFT)
        self._env.xyz_configs, self._env.quat_configs = stored
        robot = self._env.agent.robot
        spread = rng.normal(scale=_ARM_SPREAD, size=robot.max_dof)
        spread[-_FINGERS:] = 0
        robot.set_qpos(robot.get_qpos() + torch.from_numpy(spread).float())
        self._env.agent.controller.reset()

    def stored_places(self) -> list[Places]:
        """Where SimplerEnv's episodes put the object to move and what to put it on, one after the other."""
        xyz, turns = (
            np.asarray(self._env.xyz_configs, np.float64),
            np.asarray(self._env.quat_configs, np.float64),
        )
        return [Places(xyz[n // len(turns) % len(xyz)], turns[n % len(turns)]) for n in range(START_STATES)]

    def step(self, action: np.ndarray) -> bool:
        """One control step (0.2 s) of a policy's action (7,) without drawing; True while the goal holds.

        The controller moves its target by the action in the base frame, then the arm follows the target; Δ is
        thus relative to the last target, not to where the arm has got.
        """
        import torch

        agent = self._env.agent
        agent.set_action(torch.from_numpy(command(action))[None])
        for _ in range(self._env.sim_freq // self._env.control_freq):
            agent.before_simulation_step()
            self._env.scene.step()
        found = self._env.evaluate()
        self.grasped = bool(found["is_src_obj_grasped"])
        return bool(found["success"])

    def render(self) -> np.ndarray:
        """(480, 640, 3) uint8 RGB: robot and objects as rendered, everything else from the photograph."""
        return self._draw(depth=False)[0]

    def render_rgbd(self) -> tuple[np.ndarray, np.ndarray]:
        """`render`, and (480, 640) float32 meters along the optical axis, all of it simulated."""
        image, depth = self._draw(depth=True)
        assert depth is not None
        return image, depth

    @property
    def intrinsics(self) -> np.ndarray:
        """K (3, 3) in pixels of `render`."""
        (matrix,) = self._env.scene.sensors[CAMERA].get_params()["intrinsic_cv"].double().numpy()
        return np.asarray(matrix)

    @property
    def extrinsics(self) -> np.ndarray:
        """(4, 4) camera -> the robot's base, in meters; the camera's axes are x right, y down, z forward."""
        (from_world,) = self._env.scene.sensors[CAMERA].get_params()["extrinsic_cv"].double().numpy()
        base = self._env.agent.robot.pose.inv().to_transformation_matrix()[0].double().numpy()
        return np.asarray(base @ inverse(pose_matrix(from_world[:3, 3], from_world[:3, :3])))

    @property
    def tool(self) -> np.ndarray:
        """(4, 4) pose of the point between the fingers, in the base frame."""
        return self._in_base(self._env.agent.robot.links_map["ee_gripper_link"])

    @property
    def told(self) -> np.ndarray:
        """(4, 4) where the controller has been told to bring the tool, in the base frame."""
        (pose,) = self._env.agent.controller.get_state()["arm"]["target_pose"].double().numpy()
        w, *xyz = pose[3:]
        return np.asarray(pose_matrix(pose[:3], matrices(np.array([[*xyz, w]]), "quaternion_xyzw")[0]))

    @property
    def fingers(self) -> np.ndarray:
        """(2,) meters from the hand's middle to each finger: 0.037 open, 0.015 closed."""
        return np.asarray(self._env.agent.robot.get_qpos()[0, -_FINGERS:].double())

    @property
    def is_still(self) -> bool:
        """Whether the arm stands still, wherever it was told to go."""
        return bool(self._env.agent.robot.get_qvel()[0, :-_FINGERS].abs().max() < _STILL)

    @property
    def is_holding(self) -> bool:
        """Whether both fingers press on the object to move."""
        return bool(self._env.agent.is_grasping(self._env.objs[self._env.source_obj_name]))

    @property
    def succeeds(self) -> bool:
        """Whether the goal holds now."""
        return bool(self._env.evaluate()["success"])

    @property
    def source(self) -> np.ndarray:
        """(4, 4) pose of the object to move, in the base frame."""
        return self._in_base(self._env.objs[self._env.source_obj_name])

    @property
    def target(self) -> np.ndarray:
        """(4, 4) pose of what to put it on, in the base frame."""
        return self._in_base(self._env.objs[self._env.target_obj_name])

    def surface(self, which: Literal["source", "target"]) -> np.ndarray:
        """(N, 3) corners of the collision mesh of "source" or "target", in the base frame."""
        actor = self._env.objs[self._env.source_obj_name if which == "source" else self._env.target_obj_name]
        corners = np.asarray(actor.get_first_collision_mesh(to_world_frame=False).vertices)
        pose = self._in_base(actor)
        return np.asarray(corners @ pose[:3, :3].T + pose[:3, 3])

    def proprioception(self) -> np.ndarray:
        """(8,) float64: `tool` as position (m) and rotation vector, and `fingers`."""
        turn = notated(self.tool[None, :3, :3], "axis_angle")[0]
        return np.concatenate([self.tool[:3, 3], turn, self.fingers])

    def state(self) -> np.ndarray:
        """Everything that moves, as ManiSkill flattens it: to compare, not to come back to."""
        return np.asarray(self._env.get_state()[0].double())

    def close(self) -> None:
        """Gives the renderer back."""
        self._env.close()

    # ----------------------------------------------------------------- inside

    def _draw(self, depth: bool) -> tuple[np.ndarray, np.ndarray | None]:
        self._env.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        camera = self._env.scene.sensors[CAMERA]
        camera.capture()
        drawn = camera.get_obs(rgb=True, depth=depth, segmentation=True, position=False)
        foreground = np.isin(drawn["segmentation"][0].numpy(), self._foreground())
        image = np.where(foreground, drawn["rgb"][0].numpy(), self.photograph)
        return image, drawn["depth"][0, ..., 0].numpy().astype(np.float32) / 1000 if depth else None

    def _foreground(self) -> list[int]:
        """The segmentation's numbers of what the photograph does not cover."""
        things = [self._env.objs[name] for name in self._env.objects_excluded_from_greenscreening]
        return [int(thing.per_scene_id[0]) for thing in [*self._env.agent.robot.get_links(), *things]]

    def _in_base(self, thing: Any) -> np.ndarray:
        pose = self._env.agent.robot.pose.inv() * thing.pose
        return np.asarray(pose.to_transformation_matrix()[0].double())


def _mani_skill() -> Any:
    """Gymnasium, with ManiSkill's environments in it."""
    with needs_extra("simpler", "Playing SimplerEnv"):
        import gymnasium
        from mani_skill import ASSET_DIR
    logging.getLogger("mani_skill").setLevel(logging.ERROR)  # it warns of its own tasks' settings
    # ManiSkill itself would ask on the terminal whether to download them.
    if missing := [path for path in (_SCENES, _ROBOT) if not (Path(ASSET_DIR) / path).exists()]:
        raise InputError(
            f"{ASSET_DIR} has no {missing[0]}; "
            f"set MS_ASSET_DIR (now {os.environ.get('MS_ASSET_DIR', 'unset')}) to the folder whose data/ "
            "holds SimplerEnv's scenes for ManiSkill 3."
        )
    import mani_skill.envs  # noqa: F401  (registers them)
    from mani_skill.agents.robots.widowx import WidowX250S

    # Parts of the hand overlap. Where no SRDF beside the URDF lets them, PhysX pushes them apart, and the
    # fingers never move.
    if not (Path(ASSET_DIR) / _ROBOT).with_suffix(".srdf").exists():
        WidowX250S.disable_self_collisions = True
    return gymnasium
