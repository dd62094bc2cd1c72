"""Train the small ZoeDepth on RGB-D frames; a VLA's training loads the result and freezes it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import nn

from spatialvla.common.cpu import tune_cpu
from spatialvla.common.files import replacing
from spatialvla.common.json_files import write_json
from spatialvla.data.augmentation import Views
from spatialvla.data.in_memory import EpisodeSamples, IndexStream
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.presets import preset
from spatialvla.training.depth_config import DepthConfig
from spatialvla.training.optimizer import run_fraction
from spatialvla.vision.depth import ZoeDepth

SILOG_VARIANCE = 0.85
"""How much of the mean log error the scale-invariant loss forgives, as in ZoeDepth (Eigen et al. 2014)."""


@dataclass(frozen=True)
class DepthQuality:
    """abs_rel: mean |error| / truth. delta1: share of pixels within a factor of 1.25. l1: metres."""

    abs_rel: float
    delta1: float
    l1: float


def train_depth(
    config: DepthConfig, device: str | None = None, console: Console | None = None
) -> DepthQuality:
    """Writes the weights to `config.out`/model.safetensors; returns their quality on held-out episodes.

    Raises InputError where the dataset has no depth of its camera.
    """
    tune_cpu()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(config.seed)
    network = preset(config.preset)
    samples = EpisodeSamples.open(
        find_dataset(config.dataset),
        network.action_chunk_size,
        network.image_size,
        config.camera,
        config.cache,
    )
    if samples.depth is None:
        raise InputError(f"{config.dataset} has no depth of its camera to learn from.")
    training, held_out = samples.split(config.held_out, config.seed)
    stream = IndexStream(training, config.batch_size, config.seed)
    estimator = untrained_estimator(network)
    nn.Module.to(estimator, place)
    optimizer = torch.optim.AdamW(
        estimator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    config.out.mkdir(parents=True, exist_ok=True)
    log_path = config.out / "metrics.jsonl"
    start, step = time.monotonic(), 0
    with Progress(console=console or Console(quiet=True)) as bar, log_path.open("w") as log:
        task = bar.add_task("training depth", total=1.0)
        while (done := run_fraction(step, time.monotonic() - start, config.steps, config.minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(done / config.warmup, 1 - done, 1.0)
            images, truth = _frames(samples, stream.batch(step), config, step)
            loss = depth_loss(estimator.estimate(images.to(place)), truth.to(place))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(estimator.parameters(), config.clip_norm)
            optimizer.step()
            step += 1
            if step % config.log_every == 0:
                log.write(json.dumps({"step": step, "loss": float(loss.detach()), "progress": done}) + "\n")
            bar.update(task, completed=done, description=f"training depth  step {step}")
    quality = depth_quality(estimator, samples, held_out if len(held_out) else training, config.eval_frames)
    weights = {name: tensor.cpu().contiguous() for name, tensor in estimator.state_dict().items()}
    with replacing(config.out / "model.safetensors") as partial:
        save_file(weights, partial)
    write_json(config.out / "quality.json", {"steps": step, **asdict(quality)})
    return quality


def untrained_estimator(network: SpatialVLAConfig) -> ZoeDepth:
    """A ZoeDepth ready to learn: what is frozen inside a VLA is trainable here.

    It stays in eval mode, so that it is trained exactly as it is used. Convolutions start with unit gain;
    the published initialisation expects pre-trained weights and lets the signal vanish.
    """
    estimator = ZoeDepth(network.zoe, network.depth_padding)
    for module in estimator.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return estimator.requires_grad_(True)


def depth_loss(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Scale-invariant logarithmic loss plus mean absolute log error, over pixels with a reading (truth > 0).

    predicted, truth: (B, H, W) metres.
    """
    valid = truth > 0
    error = torch.log(predicted.clamp(min=1e-3)[valid]) - torch.log(truth[valid])
    spread = (error.square().mean() - SILOG_VARIANCE * error.mean().square()).clamp(min=1e-8)
    return spread.sqrt() + error.abs().mean()


@torch.no_grad()
def depth_quality(
    estimator: ZoeDepth, samples: EpisodeSamples, indices: np.ndarray, frames: int, batch_size: int = 32
) -> DepthQuality:
    """How good the estimates are on up to `frames` of these frames."""
    assert samples.depth is not None
    chosen = indices[np.linspace(0, len(indices) - 1, min(frames, len(indices))).round().astype(int)]
    relative, close, metres = [], [], []
    place = next(estimator.parameters()).device
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        predicted = estimator.estimate(_pixels(samples.images[part]).to(place)).cpu().numpy()
        truth = samples.depth[part].astype(np.float32)
        valid = truth > 0
        predicted, truth = predicted[valid], truth[valid]
        relative.append(np.abs(predicted - truth) / truth)
        close.append(np.maximum(predicted / truth, truth / np.maximum(predicted, 1e-6)) < 1.25)
        metres.append(np.abs(predicted - truth))
    return DepthQuality(*(float(np.concatenate(part).mean()) for part in (relative, close, metres)))


def _frames(
    samples: EpisodeSamples, indices: np.ndarray, config: DepthConfig, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    assert samples.depth is not None
    rng = np.random.default_rng([config.seed, step])
    views = config.augmentation(Views(samples.images[indices], np.zeros((len(indices), 3, 3))), rng)
    return _pixels(views.images), torch.from_numpy(samples.depth[indices].astype(np.float32))


def _pixels(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
