"""A policy -> graphs of static shapes for the edge, each checked token for token before it is there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatialvla.common.extras import needs_extra
from spatialvla.common.files import replacing
from spatialvla.common.manifest import recording
from spatialvla.edge.graphs import Depth, Prefill, Sizes, Step
from spatialvla.edge.runner import Arrays, EdgePolicy, Part
from spatialvla.edge.settings import FILE, PARTS, Kind, Settings
from spatialvla.edge.shared_weights import WEIGHTS, save_onnx
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.types import CameraImage, Observation

PROMPT_TOKENS = 32
"""Slots for words: instructions of Open X-Embodiment and LIBERO take fewer."""

_CHECKED = 3
"""Scenes, each with and without a depth sensor."""


@dataclass(frozen=True)
class Checked:
    """What was compared with the policy before the graphs were written. chunks: how many, all their tokens equal."""

    chunks: int
    tokens: int


def export_graphs(policy: Policy, out: Path, kind: Kind, prompt_tokens: int = PROMPT_TOKENS) -> Checked:
    """Writes `out` with the graphs `depth`, `prefill` and `step`, settings, and the processor's files.

    policy: in float32 on a CPU, as it was loaded; its depth estimator cannot be saved afterwards.
    kind: "onnx" by torch.export and ONNX, or "torch-export" for PyTorch's own .pt2. prompt_tokens: slots for words.
    Raises InputError where the policy cannot be exported, and CheckpointError where the graphs decide otherwise than
    it does; `out` is not there then.
    """
    settings = _settings(policy, kind, prompt_tokens)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; choose another --out, or empty it.")
    expected = [(scene, policy.predict([scene])[0].tokens) for scene in _scenes(policy)]
    if out.exists():
        out.rmdir()
    with replacing(out) as folder:
        folder.mkdir()
        policy.processor.save_pretrained(folder)
        files = [settings.file(part) for part in PARTS]
        with recording(folder, [FILE, *files, *([WEIGHTS] if kind == "onnx" else [])]):
            settings.save(folder)
            _write(policy, settings, folder)
        exported = (
            EdgePolicy.load(folder) if kind == "onnx" else EdgePolicy(folder, _torch_parts(settings, folder))
        )
        for scene, tokens in expected:
            found = exported.predict(scene).tokens
            if not np.array_equal(found, tokens):
                off = int((found != tokens).sum())
                raise CheckpointError(
                    f"The exported graphs decide otherwise than the policy ({off} of {tokens.size} tokens differ), so "
                    "nothing was written; run the policy itself."
                )
    return Checked(len(expected), sum(tokens.size for _, tokens in expected))


def _settings(policy: Policy, kind: Kind, prompt_tokens: int) -> Settings:
    processor, config, dataset = policy.processor, policy.model.config, policy.dataset
    if not config.use_vision_zoe:
        raise InputError("This model has no Ego3D, and the graphs are of models that have it.")
    if policy.model.dtype != torch.float32 or policy.model.optimization is not None:
        raise InputError("Graphs are exported in float32 from a model as it was loaded; load it so.")
    if prompt_tokens < 8:
        raise InputError(f"--prompt-tokens is at least 8, not {prompt_tokens}.")
    size = processor.image_size
    return Settings(
        kind=kind,
        dataset=str(dataset),
        template=policy.prompt,
        image_size=size,
        image_tokens=processor.image_token_num,
        prompt_tokens=prompt_tokens,
        chunk_size=processor.action_chunk_size,
        image_id=_id(processor, "<image>"),
        pad_id=_id(processor, "<pad>"),
        bos_id=_id(processor, "<bos>"),
        first_action=processor.action_token_begin_idx,
        cameras=processor.camera_names,
        K=tuple(_assumed(policy, name) for name in processor.camera_names),
        extrinsics=policy.needs_extrinsics,
        state=bool(policy.state_names),
        versions={name: version(name) for name in ("spatialvla", "torch")},
    )


def _assumed(policy: Policy, camera: str) -> tuple[tuple[float, ...], ...]:
    """K of pictures of the model's size; () where nothing is known of the camera."""
    processor, size = policy.processor, policy.processor.image_size
    try:
        known = processor.camera(policy.dataset, camera)
    except InputError:
        return ()
    return tuple(tuple(row) for row in known.scaled_to(size, size).tolist())


def _id(processor: Processor, token: str) -> int:
    found = processor.tokenizer.token_to_id(token)
    assert found is not None  # a processor without one is refused when it is loaded
    return found


@torch.no_grad()
def _write(policy: Policy, settings: Settings, folder: Path) -> None:
    network = policy.model
    sizes = Sizes(len(settings.cameras), settings.image_size, settings.prompt, settings.ids)
    depth, prefill, step = Depth(network), Prefill(network, sizes), Step(network, sizes)
    inputs = _example(settings, policy.model.config.state_size)
    keys = torch.stack(prefill(**inputs)[1:])
    room = keys.new_zeros(*keys.shape[:4], settings.slots, keys.shape[5])
    parts: dict[str, tuple[torch.nn.Module, dict[str, torch.Tensor]]] = {
        "depth": (depth, {"pixel_values": inputs["pixel_values"]}),
        "prefill": (prefill, inputs),
        "step": (
            step,
            {
                "token": torch.full((1, 1), settings.first_action),
                "index": torch.zeros(1, dtype=torch.long),
                "attention_mask": inputs["attention_mask"],
                "keys": room[0],
                "values": room[1],
            },
        ),
    }
    outputs = {"depth": ("meters",), "prefill": ("token", "keys", "values"), "step": ("next", "key", "value")}
    with _quiet():
        programs = {
            name: torch.export.export(part.eval(), (), kwargs=given, strict=False)
            for name, (part, given) in parts.items()
        }
        if settings.kind == "torch-export":
            for name, program in programs.items():
                torch.export.save(program, folder / settings.file(name))
            return
        with needs_extra("onnx", "An export to ONNX"):
            import onnxscript  # noqa: F401
        models = {}
        for name, program in programs.items():
            found = torch.onnx.export(program, dynamo=True, verbose=False, output_names=outputs[name])
            assert found is not None
            models[settings.file(name)] = found.model
        save_onnx(models, folder)


def _example(settings: Settings, state_size: int) -> dict[str, torch.Tensor]:
    """Inputs of prefill, of the shapes that it takes."""
    views, side = len(settings.cameras), settings.image_size
    ids = torch.full((1, settings.prompt), settings.image_id)
    ids[:, -settings.prompt_tokens :] = settings.bos_id
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones(1, settings.prompt, dtype=torch.bool),
        "pixel_values": torch.full((views, 3, side, side), 0.5),
        "intrinsics": torch.eye(3).expand(views, 3, 3).contiguous(),
        "depth": torch.ones(views, side, side),
    }
    if settings.extrinsics:
        inputs["extrinsics"] = torch.eye(4).expand(views, 4, 4).contiguous()
    if settings.state:
        inputs["state"] = torch.zeros(1, state_size)
    return inputs


def _scenes(policy: Policy) -> Iterator[Observation]:
    """Pictures of boxes on a table, each as it is and with a sensor's depth."""
    rng = np.random.default_rng(0)
    K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    pose = pose_matrix(np.array([0.5, 0.0, 0.8]), np.diag([1.0, -1.0, -1.0]))  # looks down from above
    for number in range(_CHECKED):
        for sensor in (False, True):
            seen = {}
            for name in policy.camera_names:
                picture = np.full((240, 320, 3), rng.integers(90, 200, 3), np.uint8)
                meters = np.linspace(1.4, 0.6, 240)[:, None].repeat(320, axis=1)
                for _ in range(4):
                    top, left = rng.integers(0, 180), rng.integers(0, 260)
                    picture[top : top + 50, left : left + 50] = rng.integers(0, 255, 3)
                    meters[top : top + 50, left : left + 50] -= 0.1
                seen[name] = CameraImage(
                    picture,
                    None if _assumed(policy, name) else K,
                    depth=meters if sensor else None,
                    extrinsics=pose if policy.needs_extrinsics else None,
                )
            state = rng.uniform(-0.5, 0.5, len(policy.state_names)) if policy.state_names else None
            words = ("pick up the black bowl", "open the drawer", "put the cup on the plate")[number % 3]
            yield Observation(instruction=words, images=seen, state=state)


def _torch_parts(settings: Settings, folder: Path) -> Mapping[str, Part]:
    """The graphs of torch.export, as the runner calls them."""
    return {name: _torch_part(folder / settings.file(name)) for name in PARTS}


def _torch_part(path: Path) -> Part:
    module: Any = torch.export.load(path).module()

    def run(arrays: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(
                **{name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}
            )
        return [one.numpy() for one in (found if isinstance(found, tuple | list) else (found,))]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters warn of that concerns no user."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
