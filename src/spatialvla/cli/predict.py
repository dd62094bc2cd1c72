"""`spatialvla predict`: the actions for one image and instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from spatialvla.cli.policy_options import FlatPolicyOptions
from spatialvla.cli.verb import Verb
from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from rich.console import Console

    from spatialvla.actions.units import ActionUnits
    from spatialvla.policy import Policy
    from spatialvla.types import ActionChunk, CameraImage, Observation, Uncertainty


@dataclass(frozen=True)
class Predict(Verb):
    """Print the actions for one image and instruction.

    With --figures it draws depth, points and tokens, with --json it prints for programs.
    """

    image: Annotated[Positional[Path], arg(metavar="IMAGE")]
    """What the camera sees, a picture file."""

    instruction: Annotated[Positional[str], arg(metavar="INSTRUCTION")]
    """What to do, in plain words."""

    options: FlatPolicyOptions

    intrinsics: tuple[float, float, float, float] | None = None
    """fx fy cx cy of the image in pixels; None takes the checkpoint's camera."""

    depth: Path | None = None
    """A depth sensor's map: .npy in meters or 16-bit .png in millimeters; None estimates it."""

    extrinsics: Path | None = None
    """Where the camera stands, camera -> robot base in meters: .npy of 4 x 4, or a text file of 4 rows."""

    mirrored: bool = False
    """The image is flipped left to right, as LIBERO's are."""

    views: tuple[str, ...] = ()
    """Pictures of the policy's further cameras, such as wrist=wrist.png; one that is left out is missing."""

    state: tuple[float, ...] = ()
    """The arm's own numbers, as the policy's data has them."""

    calibration: Path | None = None
    """The robot's calibration file: K and place of the cameras, where they are not given."""

    gripper_pose: Path | None = None
    """How the gripper stood, gripper -> robot base, a file like --extrinsics; for cameras that it carries."""

    uncertainty: bool = False
    """Tell how sure the policy was of each step, which takes one pass of its decoder more."""

    figures: Path | None = None
    """Folder for pictures of depth, points and grid; with several cameras for each of them and of all together."""

    json: bool = False
    """Print one JSON object: the actions, each number's unit and frame (null is unknown), and the tokens."""

    def run(self) -> None:
        """Prints the actions."""
        if self.figures is not None:
            check_output_folder(self.figures, "--figures")
        import numpy as np

        from spatialvla.calibration.policy_calibration import PolicyCalibration
        from spatialvla.common.pictures import to_rgb
        from spatialvla.common.terminal import Terminal
        from spatialvla.geometry.robot_calibration import RobotCalibration
        from spatialvla.types import Observation

        image = to_rgb(_open(self.image))
        observation = Observation(
            image,
            self.instruction,
            None if self.intrinsics is None else _matrix(*self.intrinsics),
            None if self.depth is None else read_depth(self.depth),
            None if self.extrinsics is None else read_pose(self.extrinsics),
            self.mirrored,
            images=_views(self.views),
            state=np.array(self.state) if self.state else None,
        )
        gripper_pose = None if self.gripper_pose is None else read_pose(self.gripper_pose)
        calibration = None if self.calibration is None else RobotCalibration.load(self.calibration)
        policy = self.options.load(uncertainty=self.uncertainty)
        if calibration is not None:
            cameras, first = policy.camera_names, policy.camera_names[0]
            known = PolicyCalibration(calibration, cameras, needs_extrinsics=policy.needs_extrinsics)
            observation = known.observation(observation, first, gripper_pose)
        (chunk,) = policy.predict([observation])
        if self.json:
            print(_document(self, policy, chunk))
        else:
            _print(chunk, policy.units, Terminal())
            if chunk.uncertainty is not None:
                _print_uncertainty(chunk.uncertainty, Terminal())
        if self.figures:
            _draw(policy, observation, chunk, self.figures)


def read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 meters from a .npy file in meters or a 16-bit .png in millimeters.

    Raises InputError for anything else.
    """
    import numpy as np

    if path.suffix == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no readable .npy file: {error}.") from None
    picture = _open(path)
    if not picture.mode.startswith("I"):
        raise InputError(
            f"{path} is no 16-bit depth picture (its mode is {picture.mode}); give .npy or 16-bit .png."
        )
    return np.asarray(picture).astype(np.float32) / 1000


def read_pose(path: Path) -> np.ndarray:
    """(4, 4) camera or gripper -> robot base from a .npy file, or from a text file of 4 rows.

    Raises InputError for what is no place near a robot.
    """
    import numpy as np

    from spatialvla.geometry.extrinsics import check_extrinsics

    try:
        matrix = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path)
        return check_extrinsics(matrix)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} holds no 4x4 matrix of numbers ({error}); give .npy or 4 rows of text."
        ) from None


def _views(given: Sequence[str]) -> dict[str, CameraImage]:
    """What NAME=FILE stands for."""
    from spatialvla.common.pictures import to_rgb
    from spatialvla.types import CameraImage

    views = {}
    for one in given:
        name, separator, file = one.partition("=")
        if not (name and separator and file) or name in views:
            raise InputError(f"--views takes NAME=PICTURE, each name once, not {one!r}.")
        views[name] = CameraImage(to_rgb(_open(Path(file))))
    return views


def _open(path: Path) -> Image:
    from spatialvla.common.pictures import open_picture

    try:
        return open_picture(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except InputError as error:
        raise InputError(f"{path} is no readable picture ({error}).") from None


def _matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    import numpy as np

    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _document(asked: Predict, policy: Policy, chunk: ActionChunk) -> str:
    import json

    document = {
        "policy": asked.options.policy,
        "dataset": policy.dataset,
        "instruction": asked.instruction,
        "units": policy.units.to_json(),
        "axes": policy.units.axes(),
        "actions": chunk.actions.tolist(),
        "token_kinds": ["translation", "rotation", "gripper"],
        "tokens": chunk.tokens.tolist(),
    }
    if (sure := chunk.uncertainty) is not None:
        known = policy.units.meters is not None
        document["uncertainty"] = {
            "entropy": sure.entropy.tolist(),
            "spread_mm": sure.spread_mm.tolist() if known else None,
        }
    return json.dumps(document, ensure_ascii=False)


def _print(chunk: ActionChunk, units: ActionUnits, console: Console) -> None:
    from rich import box
    from rich.table import Table

    # Narrow enough for 80 columns.
    along = f", along the {units.frame}'s axes" if units.frame else ""
    table = Table(title=f"actions, {units.describe()}{along}", box=box.SIMPLE_HEAD, padding=0)
    turns = ("Δrx", "Δry", "Δrz") if units.rotation == "rotation_vector" else ("Δroll", "Δpitch", "Δyaw")
    for name in ("step", "Δx", "Δy", "Δz", *turns, "gripper", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for step, (action, tokens) in enumerate(zip(chunk.actions, chunk.tokens, strict=True), start=1):
        gripper = "open" if action[6] >= 0.5 else "closed"
        table.add_row(
            str(step), *(f"{value:+.4f}" for value in action[:6]), gripper, " ".join(map(str, tokens))
        )
    console.print(table)


def _print_uncertainty(uncertainty: Uncertainty, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title="how sure the policy was: entropy in bits, spread in mm", box=box.SIMPLE_HEAD, padding=0
    )
    for name in ("step", "translation", "rotation", "gripper", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for step, (entropy, spread) in enumerate(
        zip(uncertainty.entropy, uncertainty.spread_mm, strict=True), start=1
    ):
        table.add_row(
            str(step), *(f"{bits:.2f}" for bits in entropy), f"{spread:.1f}" if spread == spread else "?"
        )
    console.print(table)


def _draw(policy: Policy, observation: Observation, chunk: ActionChunk, folder: Path) -> None:
    from spatialvla.viz.action_grid import plot_grid
    from spatialvla.viz.drawing import png
    from spatialvla.viz.figures import depth_figure, joint_cloud_figure, point_cloud_figure
    from spatialvla.viz.scenes import seen_scenes

    ((first, *others),) = seen_scenes(policy, [observation])
    name = first.name if others else "image"
    drawn = {
        "depth": png(depth_figure(first.depth, first.image, name)),
        "points": png(point_cloud_figure(first.image, first.depth, first.intrinsics)),
        "grid": plot_grid(policy.processor.grid, tokens=chunk.tokens),
    }
    for scene in others:
        drawn[f"depth_{scene.name}"] = png(depth_figure(scene.depth, scene.image, scene.name))
    if others and all(scene.pose is not None for scene in (first, *others)):
        drawn["points"] = png(joint_cloud_figure([first, *others]))
        drawn["points_by_camera"] = png(joint_cloud_figure([first, *others], by_camera=True))
    else:
        for scene in others:
            cloud = point_cloud_figure(scene.image, scene.depth, scene.intrinsics)
            drawn[f"points_{scene.name}"] = png(cloud)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in drawn.items():
        (folder / f"{file}.png").write_bytes(content)
