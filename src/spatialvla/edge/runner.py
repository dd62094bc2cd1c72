"""A policy from exported graphs: an observation in, a chunk of actions out, by ONNX Runtime and NumPy alone.

Neither PyTorch nor transformers is imported, so a machine beside the robot needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from spatialvla.actions.grids import NOT_FINITE, ActionGrid
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.common.extras import needs_extra
from spatialvla.common.json_files import read_json
from spatialvla.edge.settings import PARTS, Settings
from spatialvla.errors import CheckpointError, InputError, NotFiniteError
from spatialvla.geometry.camera import View
from spatialvla.geometry.extrinsics import check_extrinsics, mirror_extrinsics
from spatialvla.types import ActionChunk, CameraImage, Observation

Arrays = Mapping[str, np.ndarray]
Part = Callable[[Arrays], list[np.ndarray]]
"""A graph: arrays by the names of its inputs -> its outputs in order."""


class EdgePolicy:
    """Decides as `Policy` does without speculation, of one observation at a time.

    folder: what `spatialvla export --to onnx` wrote. parts: its graphs `depth`, `prefill` and `step`.
    units: what 1 in its actions is.
    Raises CheckpointError for a folder that is none of these.
    """

    def __init__(self, folder: str | Path, parts: Mapping[str, Part]) -> None:
        folder = Path(folder)
        self.settings = Settings.load(folder)
        self._parts = parts
        raw = read_json(folder / "processor_config.json")
        entry = raw["statistics"][self.settings.dataset]
        self._grid = ActionGrid.from_json(raw)
        self._statistics = ActionStatistics.from_json(entry)
        self._state = StateStatistics.from_json(entry["proprio"]) if self.settings.state else None
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.units = ActionUnits.from_json(raw.get("action_units", {}).get(self.settings.dataset))

    @classmethod
    def load(
        cls, folder: str | Path, providers: tuple[str, ...] = ("CPUExecutionProvider",), threads: int = 0
    ) -> Self:
        """Opens the graphs in ONNX Runtime.

        providers: its execution providers, by its names. threads: of one graph; 0 leaves the number to it.
        """
        with needs_extra("onnx", "Running an export"):
            import onnxruntime
        settings = Settings.load(Path(folder))
        if settings.kind != "onnx":
            raise CheckpointError(
                f"{folder} holds graphs of torch.export; export with --to onnx for this runner."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        parts = {}
        for name in PARTS:
            session = onnxruntime.InferenceSession(
                Path(folder) / settings.file(name), options, list(providers)
            )
            parts[name] = _onnx_part(session)
        return cls(folder, parts)

    def predict(self, observation: Observation) -> ActionChunk:
        """The next chunk. Raises InputError for what cannot be used, NotFiniteError for logits that are not finite."""
        ids = self._decode(self._inputs(observation))
        if (ids == NOT_FINITE).any():
            raise NotFiniteError(
                "The model's logits contain NaN or infinity, so it says no action; check the observation's camera and "
                "depth."
            )
        tokens = ids.reshape(-1, 3) - self.settings.first_action
        actions = self._statistics.denormalize(self._grid.decode(tokens[None]))[0]
        return ActionChunk(actions, tokens)

    def _decode(self, inputs: Arrays) -> np.ndarray:
        """The ids of a chunk, one a pass."""
        settings, mask = self.settings, inputs["attention_mask"]
        token, keys_of_prompt, values_of_prompt = self._parts["prefill"](inputs)
        shape = [*keys_of_prompt.shape]
        shape[3] = settings.slots
        keys, values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        keys[:, :, :, : settings.prompt] = keys_of_prompt
        values[:, :, :, : settings.prompt] = values_of_prompt
        ids = [int(token[0, 0])]
        for index in range(settings.ids - 1):
            token, key, value = self._parts["step"](
                {
                    "token": token,
                    "index": np.array([index]),
                    "attention_mask": mask,
                    "keys": keys,
                    "values": values,
                }
            )
            slot = slice(settings.prompt + index, settings.prompt + index + 1)
            keys[:, :, :, slot], values[:, :, :, slot] = key, value
            ids.append(int(token[0, 0]))
        return np.array(ids)

    def _inputs(self, observation: Observation) -> dict[str, np.ndarray]:
        """What prefill takes, by name."""
        settings = self.settings
        seen = observation.cameras(settings.cameras[0])
        if missing := [name for name in settings.cameras if name not in seen]:
            raise InputError(
                f"The graphs take pictures of {', '.join(settings.cameras)} in every call; that of {missing[0]} is "
                "missing."
            )
        views = [self._view(name, seen[name]) for name in settings.cameras]
        pixels = np.stack([view.image for view in views]).transpose(0, 3, 1, 2).astype(np.float32) / 255
        input_ids, mask = self._prompt(observation.instruction)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "pixel_values": pixels,
            "intrinsics": np.stack([self._intrinsics(n, view) for n, view in enumerate(views)]),
            "depth": self._depth(pixels, views),
        }
        if settings.extrinsics:
            poses = [view.extrinsics for view in views if view.extrinsics is not None]
            inputs["extrinsics"] = np.stack(poses).astype(np.float32)
        if self._state is not None:
            if observation.state is None:
                raise InputError("The graphs take the arm's state in every call; give it.")
            inputs["state"] = self._state.normalize(observation.state)[None].astype(np.float32)
        return inputs

    def _view(self, name: str, seen: CameraImage) -> View:
        pose = None
        if self.settings.extrinsics:
            if seen.extrinsics is None:
                raise InputError(
                    f"The graphs work in the robot's frame; give extrinsics of the camera {name!r}."
                )
            pose = check_extrinsics(seen.extrinsics)
            pose = mirror_extrinsics(pose) if seen.mirrored else pose
        if seen.image is None:
            raise InputError(f"The camera {name!r} has no picture.")
        return View.of(seen.image, seen.intrinsics, seen.depth, pose).resized(self.settings.image_size)

    def _intrinsics(self, camera: int, view: View) -> np.ndarray:
        assumed = self.settings.K[camera]
        if view.intrinsics is None and not assumed:
            raise InputError(
                f"Give the intrinsics of the camera {self.settings.cameras[camera]!r}; none are known."
            )
        return np.asarray(assumed if view.intrinsics is None else view.intrinsics, np.float32)

    def _depth(self, pixels: np.ndarray, views: list[View]) -> np.ndarray:
        """Meters (V, side, side): the sensors', and an estimate where there is none."""
        measured = [view.depth for view in views if view.depth is not None]
        if len(measured) == len(views):
            return np.stack(measured).astype(np.float32)
        (estimate,) = self._parts["depth"]({"pixel_values": pixels})
        depths = [estimate[n] if view.depth is None else view.depth for n, view in enumerate(views)]
        return np.stack(depths).astype(np.float32)

    def _prompt(self, instruction: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask (1, P): padding, the pictures' and the state's slots, the words."""
        settings = self.settings
        text = settings.template.replace("{instruction}", instruction.strip().lower()).strip()
        if not text:
            raise InputError("A prompt is empty; say what the robot should do.")
        words = [settings.bos_id, *self._tokenizer.encode(text + "\n", add_special_tokens=False).ids]
        if len(words) > settings.prompt_tokens:
            raise InputError(
                f"The instruction takes {len(words)} tokens, and the graphs have room for {settings.prompt_tokens}; "
                "export again with more --prompt-tokens."
            )
        reserved = {settings.image_id, settings.pad_id, settings.bos_id}
        actions = range(settings.first_action, settings.first_action + self._grid.size)
        if any(one in reserved or one in actions for one in words[1:]):
            raise InputError(f"The prompt {text[:60]!r} contains a reserved token; leave it out.")
        seen = settings.prompt - settings.prompt_tokens
        padding = settings.prompt_tokens - len(words)
        ids = [settings.pad_id] * padding + [settings.image_id] * seen + words
        mask = [False] * padding + [True] * (seen + len(words))
        return np.array([ids], np.int64), np.array([mask])


def _onnx_part(session: Any) -> Part:
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: session.run(None, {name: arrays[name] for name in names})
