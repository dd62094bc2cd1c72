"""One episode as a Rerun recording: what was seen, what was chosen, and how the gripper moved."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import rerun as rr
from jaxtyping import Float, Real
from PIL import Image

from spatialvla.actions.motion_path import MotionPath
from spatialvla.types import ActionChunk, CameraImage, Uncertainty
from spatialvla.viz.rerun import paths
from spatialvla.viz.rerun.layout import STEP, TIME, layout
from spatialvla.viz.rerun.real_view import RealView
from spatialvla.viz.rerun.rig import Rig

_OPEN, _CLOSED = (64, 224, 208), (255, 150, 60)
"""Colors, RGB, of what is done with the gripper open and closed."""
_PATH, _KNOWN_PATH, _POSSIBLE = (230, 70, 160), (150, 150, 150), (255, 220, 60)
_SERIES = ((235, 90, 80), (90, 200, 110), (90, 150, 250))
"""Of curves: x, y and z as axes are drawn, and the three parts of an action in the same order."""
_PARTS = ("translation", "rotation", "gripper")
_JPEG_QUALITY = 90
_MILLIMETERS = 1000.0  # of a depth picture's unit in a meter
_HALF_OPEN = 0.5
_FRUSTUM = 0.12
"""Meters from a camera to where its picture is drawn."""


class EpisodeRecording:
    """Takes the parts of an episode in order, each with its control step, and hands them to Rerun.

    decides: whether a policy chooses chunks, so that there is room for how sure it was of them.
    """

    def __init__(self, stream: rr.RecordingStream, rig: Rig, *, decides: bool = True) -> None:
        self._stream = stream
        self._rig = rig
        self._decides = decides
        self._instruction = ""
        self._outcome = ""
        self._notes: list[str] = []
        self._text = ""
        self._begun = False
        self._gripper: tuple[int, np.ndarray] | None = None
        self._opens = True
        stream.set_log_tick_enabled(False)
        stream.log(paths.ROBOT, rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        stream.log(f"{paths.ROBOT}/base", rr.TransformAxes3D(axis_length=0.1), static=True)
        self._name_series()

    def show_cameras(
        self,
        step: int,
        cameras: Mapping[str, CameraImage],
        instruction: str,
        estimates: Mapping[str, Real[np.ndarray, "h w"]] | None = None,
    ) -> None:
        """What the cameras show before a step. estimates: depth in meters by camera, over the pictures as they come."""
        self._at(step)
        views = {
            name: RealView.of(seen, (estimates or {}).get(name), self._rig.cameras.get(name))
            for name, seen in cameras.items()
        }
        if not self._begun:
            self._begun = True
            self._stream.send_blueprint(layout(views, decides=self._decides))
        self._instruction = instruction
        for name, view in views.items():
            self._show(name, view)
        self._note_cameras(
            [name for name, view in views.items() if view.extrinsics is None],
            "Nobody says where these cameras stand, so their points are in their own frames (x right, y down, z "
            "forward)",
        )
        self._note_cameras(
            [name for name, view in views.items() if view.flipped],
            "These cameras' pictures come flipped left to right, and are shown as the real cameras see them",
        )
        self._tell()

    def show_gripper(self, step: int, gripper: Float[np.ndarray, "3"] | None) -> None:
        """Where the gripper is before a step, in meters in the robot's frame; None where it is not known."""
        before, self._gripper = self._gripper, None if gripper is None else (step, gripper)
        if gripper is None:
            return
        self._at(step)
        color = _OPEN if self._opens else _CLOSED
        self._stream.log(
            paths.GRIPPER, rr.Points3D([gripper], colors=[color], radii=rr.Radius.ui_points(6.0))
        )
        if before is not None and before[0] < step:
            way = rr.LineStrips3D([[before[1], gripper]], colors=[_PATH], radii=rr.Radius.ui_points(2.0))
            self._stream.log(paths.PATH, way)

    def show_chunk(self, step: int, chunk: ActionChunk, executed: int) -> None:
        """What the policy chose from a step on. executed: how many of the chunk's actions will be carried out."""
        self.show_next_actions(step, chunk.actions)
        if chunk.uncertainty is not None:
            self._show_uncertainty(step, chunk.uncertainty, executed)

    def show_next_actions(self, step: int, actions: Float[np.ndarray, "T 7"]) -> None:
        """Where the actions from a step on lead the gripper."""
        path = MotionPath.of(actions, self._rig.units, self._gripper_now)
        opens = actions[:, 6, None] >= _HALF_OPEN
        self._at(step)
        self._stream.log(
            paths.UNPLACED_CHUNK if path.unplaced else paths.CHUNK,
            rr.Arrows3D(origins=path.points[:-1], vectors=path.steps, colors=np.where(opens, _OPEN, _CLOSED)),
        )
        if path.unplaced:
            self.note(f"Actions are drawn from an origin of their own: {path.unplaced}.")
        self._tell()

    def show_whole_path(self, positions: Float[np.ndarray, "T 3"]) -> None:
        """Where the gripper is known to go in the whole episode, in meters in the robot's frame."""
        way = rr.LineStrips3D([positions], colors=[_KNOWN_PATH], radii=rr.Radius.ui_points(1.0))
        self._stream.log(paths.RECORDED_PATH, way, static=True)

    def move(self, step: int, action: Float[np.ndarray, "7"]) -> None:
        """The action of a step, which is carried out."""
        units = self._rig.units
        self._at(step)
        self._stream.log(f"{paths.ACTIONS}/translation", rr.Scalars(action[:3] * (units.meters or 1.0)))
        self._stream.log(f"{paths.ACTIONS}/rotation", rr.Scalars(action[3:6] * (units.radians or 1.0)))
        self._stream.log(f"{paths.ACTIONS}/gripper", rr.Scalars(action[6]))
        self._opens = bool(action[6] >= _HALF_OPEN)

    def end(self, step: int, success: bool | None = None) -> None:
        """How it ended, after so many steps; None where nobody knows."""
        self._at(step)
        outcome = {True: "Success", False: "Failure", None: "Over"}[success]
        self._outcome = f"{outcome} after {step} steps"
        told: dict[str, object] = {"instruction": self._instruction, "steps": step}
        if success is not None:
            told["success"] = success
        self._stream.send_property("episode", rr.AnyValues(drop_untyped_nones=True, **told))
        self._tell()

    def note(self, text: str) -> None:
        """Says something of the whole recording, once, from now on."""
        if text not in self._notes:
            self._notes.append(text)

    def warn(self, step: int, text: str) -> None:
        """Says what went wrong before a step."""
        self._at(step)
        self._stream.log(paths.LOG, rr.TextLog(text, level=rr.TextLogLevel.WARN))
        self.note(f"Not all is recorded; `{paths.LOG}` says what is missing where.")

    def close(self) -> None:
        """Makes the file complete."""
        self._stream.flush()
        self._stream.disconnect()

    # ---------------------------------------------------------------- inside

    def _at(self, step: int) -> None:
        self._stream.set_time(STEP, sequence=step)
        if self._rig.units.control_hz:
            self._stream.set_time(TIME, duration=step / self._rig.units.control_hz)

    def _show_uncertainty(self, step: int, uncertainty: Uncertainty, executed: int) -> None:
        for number, entropy in enumerate(uncertainty.entropy[:executed]):
            self._at(step + number)
            self._stream.log(paths.ENTROPY, rr.Scalars(entropy))
        if uncertainty.probabilities is None:
            return
        self._at(step)
        for part, cells in zip(_PARTS, uncertainty.probabilities, strict=True):
            self._stream.log(f"{paths.PROBABILITIES}/{part}", rr.BarChart(cells[0]))
        places, chances = self._rig.possible_places(uncertainty.probabilities[0][0], self._gripper_now)
        weight = np.sqrt(chances)
        colors = (np.asarray(_POSSIBLE) * (0.3 + 0.7 * weight[:, None])).astype(np.uint8)
        self._stream.log(
            paths.POSSIBLE, rr.Points3D(places, colors=colors, radii=rr.Radius.ui_points(2 + 8 * weight))
        )

    @property
    def _gripper_now(self) -> np.ndarray | None:
        return None if self._gripper is None else self._gripper[1]

    def _name_series(self) -> None:
        units = self._rig.units
        meters, radians = "m" if units.meters else "", "rad" if units.radians else ""
        turns = ("rx", "ry", "rz") if units.rotation == "rotation_vector" else ("roll", "pitch", "yaw")
        names = {
            f"{paths.ACTIONS}/translation": [f"Δ{axis} {meters}".strip() for axis in ("x", "y", "z")],
            f"{paths.ACTIONS}/rotation": [f"Δ{axis} {radians}".strip() for axis in turns],
            f"{paths.ACTIONS}/gripper": ["gripper (1 is open)"],
            paths.ENTROPY: list(_PARTS),
        }
        for path, each in names.items():
            self._stream.log(path, rr.SeriesLines(names=each, colors=_SERIES[: len(each)]), static=True)

    def _note_cameras(self, names: list[str], text: str) -> None:
        if names:
            self.note(f"{text}: {', '.join(names)}.")

    def _show(self, name: str, view: RealView) -> None:
        placed = view.extrinsics is not None
        path = paths.camera(name, placed=placed)
        height, width = view.image.shape[:2]
        if view.extrinsics is not None:
            pose = view.extrinsics
            self._stream.log(path, rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        else:
            self._stream.log(f"{paths.UNPLACED}/{name}", rr.ViewCoordinates.RDF, static=True)
        if view.intrinsics is not None:
            self._stream.log(
                path,
                rr.Pinhole(
                    image_from_camera=view.intrinsics,
                    resolution=[width, height],
                    camera_xyz=rr.ViewCoordinates.RDF,
                    image_plane_distance=_FRUSTUM,
                ),
            )
        self._stream.log(f"{path}/image", rr.Image(view.image).compress(jpeg_quality=_JPEG_QUALITY))
        for kind, depth in view.depths.items():
            self._stream.log(f"{path}/depth/{kind}", _depth_picture(depth))
            if (cloud := view.points(kind)) is not None:
                self._stream.log(
                    paths.points(name, kind, placed=placed),
                    rr.Points3D(cloud.points, colors=cloud.colors, radii=rr.Radius.ui_points(1.5)),
                )

    def _tell(self) -> None:
        lines = [f"# {self._instruction or '(no instruction)'}", self._outcome, *self._notes]
        text = "\n\n".join(line for line in lines if line)
        if text != self._text:
            self._text = text
            self._stream.log(paths.EPISODE, rr.TextDocument(text, media_type=rr.MediaType.MARKDOWN))


def _depth_picture(depth: np.ndarray) -> rr.EncodedDepthImage:
    """As a 16-bit PNG in millimeters; 0 is not measured."""
    millimeters = np.clip(np.nan_to_num(depth) * _MILLIMETERS, 0, np.iinfo(np.uint16).max).round()
    buffer = io.BytesIO()
    Image.fromarray(millimeters.astype(np.uint16)).save(buffer, "PNG", compress_level=1)
    return rr.EncodedDepthImage(buffer.getvalue(), media_type="image/png", meter=_MILLIMETERS)
