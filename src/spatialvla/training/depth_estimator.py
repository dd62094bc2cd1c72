"""Train the small ZoeDepth on RGB-D frames; a VLA's training loads the result and freezes it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from spatialvla.common.cache_folder import cache_folder
from spatialvla.common.claims import claimed
from spatialvla.common.cpu import tune_cpu
from spatialvla.common.device import find_device
from spatialvla.common.files import sweep
from spatialvla.common.json_files import write_json
from spatialvla.common.manifest import recording
from spatialvla.common.output_folder import check_output_folder
from spatialvla.data.augmentation import Views
from spatialvla.data.draws import Draws, ShardedSampler
from spatialvla.data.episodes import EpisodeSource
from spatialvla.data.every_view import beneath, views_of
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.presets import preset
from spatialvla.model.weights import write_file
from spatialvla.training.config import DatasetConfig
from spatialvla.training.depth_config import DepthConfig
from spatialvla.training.feed.datasets import open_dataset
from spatialvla.training.optimizer import run_fraction
from spatialvla.training.start.build import load_depth
from spatialvla.vision.depth import ZoeDepth

SILOG_VARIANCE = 0.85
"""How much of the mean log error the scale-invariant loss forgives, as in ZoeDepth (Eigen et al. 2014)."""


@dataclass(frozen=True)
class DepthQuality:
    """abs_rel: mean |error| / truth. delta1: share of pixels within a factor of 1.25. l1: meters."""

    abs_rel: float
    delta1: float
    l1: float


def train_depth(
    config: DepthConfig, device: str | None = None, console: Console | None = None
) -> DepthQuality:
    """Writes the weights to `config.out`/model.safetensors; returns their quality on held-out episodes.

    Raises InputError where a dataset has no depth of its camera, where another process writes there, and where the
    loss is no number any more;
    CheckpointError where there is no estimator of this size to go on from.
    """
    check_output_folder(config.out)
    tune_cpu()
    on = find_device(device)
    torch.manual_seed(config.seed)
    network = preset(config.preset)
    mixture = depth_frames(config, network)
    sampler = ShardedSampler(config.batch_size)
    estimator = untrained_estimator(network)
    if config.depth_weights is not None:
        load_depth(estimator, config.depth_weights)
    nn.Module.to(estimator, on)
    optimizer = torch.optim.AdamW(
        estimator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    start, step = time.monotonic(), 0
    with (
        claimed(config.out / "model.safetensors", "training run"),
        Progress(console=console or Console(quiet=True)) as bar,
        (config.out / "metrics.jsonl").open("w") as log,
    ):
        task = bar.add_task("training depth", total=1.0)
        while (done := run_fraction(step, time.monotonic() - start, config.steps, config.minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(done / config.warmup, 1 - done, 1.0)
            images, truth = _frames(mixture, mixture.training(sampler.numbers(step)))
            images = _augmented(images, config, step)
            loss = depth_loss(estimator.estimate(_pixels(images).to(on)), torch.from_numpy(truth).to(on))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not torch.isfinite(nn.utils.clip_grad_norm_(estimator.parameters(), config.clip_norm)):
                raise InputError(
                    f"The loss of step {step + 1} is {float(loss.detach()):g} and its gradients are not finite, so no "
                    "weights are written; lower the learning rate, or look at the dataset's depth (data inspect)."
                )
            optimizer.step()
            step += 1
            if step % config.log_every == 0:
                log.write(json.dumps({"step": step, "loss": float(loss.detach()), "progress": done}) + "\n")
            bar.update(task, completed=done, description=f"training depth  step {step}")
    quality = depth_quality(estimator, mixture, config.eval_frames)
    weights = {name: tensor.cpu().contiguous() for name, tensor in estimator.state_dict().items()}
    sweep(config.out, "*.safetensors")
    with recording(config.out, ["model.safetensors"]):
        write_file(weights, config.out / "model.safetensors")
    write_json(config.out / "quality.json", {"steps": step, **asdict(quality)})
    return quality


def depth_frames(config: DepthConfig, network: SpatialVLAConfig) -> TrainingMixture:
    """The datasets in memory, in the size of the model's images. Raises InputError where one has no depth."""
    cache = config.cache or cache_folder()
    opened = [
        DatasetConfig(
            path,
            mapping=config.mapping,
            camera="+".join(config.camera) or None,
            spec=config.spec,
            key=path,
        )
        for path in config.dataset
    ]
    sources = [
        beneath(
            open_dataset(dataset, cache),
            lambda source: CachedSource(source, network.image_size, cache / "frames"),
        )
        for dataset in opened
    ]
    mixture = TrainingMixture.open(
        sources,
        held_out=config.held_out,
        seed=config.seed,
        missing_instruction="",
        cache=cache / "surveys",
        views=[len(views_of(source)) for source in sources],
    )
    for view in (view for source in sources for view in views_of(source)):
        _check_depth(view)
    return mixture


def _check_depth(view: EpisodeSource) -> None:
    """Raises InputError where a dataset has no depth through one of its cameras, or was never seen through it."""
    seen = (episode for episode in map(view.episode, range(len(view))) if len(episode.starts))
    first = next(seen, None)
    if first is None or first.depth(first.starts[:1].tolist()) is None:
        raise InputError(f"{view.key} has no depth to learn from; leave the camera out, or the dataset.")


def untrained_estimator(network: SpatialVLAConfig) -> ZoeDepth:
    """A ZoeDepth ready to learn: what is frozen inside a VLA is trainable here.

    It stays in eval mode, so that it is trained exactly as it is used. Convolutions start with unit gain;
    the published initialization expects pre-trained weights and lets the signal vanish.
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

    predicted, truth: (B, H, W) meters.
    """
    valid = truth > 0
    error = torch.log(predicted.clamp(min=1e-3)[valid]) - torch.log(truth[valid])
    spread = (error.square().mean() - SILOG_VARIANCE * error.mean().square()).clamp(min=1e-8)
    return spread.sqrt() + error.abs().mean()


@torch.no_grad()
def depth_quality(
    estimator: ZoeDepth, mixture: TrainingMixture, frames: int, batch_size: int = 32
) -> DepthQuality:
    """How good the estimates are on up to `frames` held-out frames, or training's first where none are."""
    held_out = mixture.evaluation(frames)
    drawing = held_out if len(held_out) else mixture.training
    count = min(frames, len(drawing))
    relative, close, meters = [], [], []
    device = next(estimator.parameters()).device
    for start in range(0, count, batch_size):
        images, truth = _frames(mixture, drawing(np.arange(start, min(start + batch_size, count))))
        predicted = estimator.estimate(_pixels(images).to(device)).cpu().numpy()
        valid = truth > 0
        predicted, truth = predicted[valid], truth[valid]
        relative.append(np.abs(predicted - truth) / truth)
        close.append(np.maximum(predicted / truth, truth / np.maximum(predicted, 1e-6)) < 1.25)
        meters.append(np.abs(predicted - truth))
    return DepthQuality(*(float(np.concatenate(part).mean()) for part in (relative, close, meters)))


def _frames(mixture: TrainingMixture, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """(B, H, W, 3) uint8 and (B, H, W) float32 meters, 0 where there is no reading."""
    images, depth = [], []
    for number, index, start in zip(
        draws.source.tolist(), draws.episode.tolist(), draws.start.tolist(), strict=True
    ):
        episode = mixture.sources[number].episode(index)
        steps = [int(episode.starts[start])]
        readings = episode.depth(steps)
        assert readings is not None
        images.append(episode.images(steps))
        depth.append(readings)
    return np.concatenate(images), np.concatenate(depth)


def _augmented(images: np.ndarray, config: DepthConfig, step: int) -> np.ndarray:
    """Colors alone, which need no camera."""
    views = Views(images, np.zeros((len(images), 3, 3)))
    return config.augmentation(views, images.shape[1], np.random.default_rng([config.seed, step])).images


def _pixels(images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
