"""The options of a training run in groups: how data is read, what it starts from, what is learned and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FineTuning = Literal["full", "lora", "adapt"]
Precision = Literal["auto", "bf16", "fp32"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the datasets are read."""

    in_memory: bool = False
    """Decode all frames once, in the model's image size, into memory: fastest for small datasets."""

    statistics: Path | None = None
    """JSON file of statistics, by `data statistics` or as the published ds_stats.json; None takes the datasets' own."""

    cache: Path | None = None
    """Folder for what is decoded, estimated or counted once; None takes the user's cache folder."""

    workers: int = 0
    """Processes that read samples, for each process that trains; 0 reads them there."""

    on_bad: Literal["raise", "skip"] = "raise"
    """Whether a damaged episode ends the run, or is skipped, and its samples replaced, and counted."""

    shares: Literal["samples", "published"] = "samples"
    """What a dataset's weight is times: its samples, or, as published, all its steps before any are left out."""

    missing_instruction: str | None = None
    """What to say where an episode has no instruction; None leaves such episodes out."""

    held_out: float = 0.05
    """Fraction of the episodes to validate on."""

    eval_frames: int = 256
    """Frames of them that a validation looks at."""


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """What the run starts from, and its action grid."""

    policy: str | None = None
    """Checkpoint to start from: folder, shipped model (nano, nano-wrist) or Hub id; None starts a new network."""

    base: str | None = None
    """Base of an adapter: a checkpoint; None takes the one that its adapter_config.json names."""

    depth_weights: Path | None = None
    """Depth estimator to load and freeze: by `train-depth`, or a policy's; None: the checkpoint's, or nano's own."""

    chunk_size: int | None = None
    """Steps of a chunk; None keeps the policy's, and gives a new network 4."""

    ego3d_frame: Literal["camera", "robot"] | None = None
    """Whose frame Ego3D places patches in; None keeps the policy's, and gives a new network the camera's."""

    workspace: tuple[float, float, float, float] | None = None
    """Center x y z and unit of Ego3D's positions, in meters; None keeps the policy's, and gives a new frame its own."""

    add_camera: tuple[str, ...] = ()
    """Cameras that the policy gets behind its own, by the names that the datasets have for them."""

    add_state: int = 0
    """Numbers of the arm's state that a policy without one gets, as many as the datasets have; 0 adds none."""

    freeze_text_embeddings: bool = True
    """Keep the words' embeddings as they are, where everything else is trained."""

    freeze_vision_tower: bool = False
    """Keep SigLIP as it is, its LoRA adapters too."""

    new_grid: bool = False
    """Carry the policy over to a new action grid; finetune's mode adapt always does."""

    grid: Literal["fitted", "uniform"] = "fitted"
    """Kind of a new action grid: fitted to the datasets, or the paper's ablation."""

    gaussians: Path | None = None
    """Gaussians of a new grid, a JSON file as the published code's gs_*.json; None fits them to the datasets."""

    min_sigma: float = 0.0
    """Floor of the deviations of a new grid's Gaussians, in normalized actions."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network where no policy is given."""

    preset: str = "nano"
    """Size of a network with random weights: 4b or nano."""

    paligemma: str | None = None
    """Folder or Hub id of a PaliGemma 2 to start from instead of random weights."""

    zoedepth: str | None = None
    """Folder or Hub id of the ZoeDepth that goes with it."""

    cameras: tuple[str, ...] = ()
    """Names of its cameras: first that of each dataset's main one, then the datasets' own of others; none is one."""

    state: bool = False
    """Let it see the arm's state, as the datasets have it."""

    instructions: Path | None = None
    """Texts that a new tokenizer learns beside the datasets' own: a JSON list's file, or libero for its tasks."""


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """How much of a policy changes."""

    mode: FineTuning = "full"
    """All weights but ZoeDepth's, LoRA adapters, or a new grid's embeddings, Ego3D's MLP and the state's alone."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What is learned."""

    mask: Literal["prefix", "causal"] = "prefix"
    """prefix lets the prompt see itself both ways, causal does not."""

    depth: Literal["estimate", "sensor"] = "estimate"
    """Which depth Ego3D sees: the frozen estimator's or the dataset's."""

    camera_dropout: float = 0.0
    """Probability that a sample's camera is hidden from the model; of several, one always stays."""

    state_dropout: float = 0.0
    """Probability that a sample's state is hidden from the model."""

    committed_steps: int = 0
    """Give up to so many first steps of a chunk as already under way, without a loss; 0 gives none."""

    committed_share: float = 0.5
    """Fraction of the samples that such steps are given to."""

    committed_jitter: float = 0.0
    """Probability that a coordinate of such a step is a neighboring cell's."""


@dataclass(frozen=True, kw_only=True)
class OptimizationOptions:
    """How it is learned. The run ends, and the rate has fallen, by what comes first: steps, epochs or minutes."""

    steps: int | None = 10_000
    """End after so many steps; None sets no limit."""

    epochs: float | None = None
    """End after the samples were gone through so often; None sets no limit."""

    minutes: float | None = None
    """End after so much time; None sets no limit."""

    batch_size: int = 32
    """Samples a step, over all processes."""

    accumulation: int | None = None
    """Parts in which each process goes through its share of a batch; None makes them of up to 32 samples."""

    learning_rate: float = 2e-5
    """Peak learning rate."""

    warmup: float = 0.005
    """Fraction of the run in which the rate rises."""

    schedule: Literal["cosine", "linear"] = "linear"
    """How the rate falls afterwards."""

    final_rate: float = 0.0
    """Where it ends, as a fraction of the peak."""

    weight_decay: float = 0.0
    """Of matrices; norms, biases and embeddings do not decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the gradients' mean and of their squares' mean."""

    clip_norm: float = 1.0
    """Largest norm of the gradients."""

    ema_decay: float = 0.0
    """Of an average of the weights that is evaluated and exported; 0 keeps none."""

    precision: Precision = "auto"
    """Of matrix products over float32 weights; auto is bf16 where the hardware multiplies it."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""

    compile: bool | None = None
    """Let torch compile the layers, a minute or two at the start; None does where it pays, in long runs on a CPU."""

    skip_bad_batches: bool = False
    """Leave out steps whose loss is no number, and count them, instead of ending the run."""

    seed: int = 0
    """Of weights, shuffling and augmentation."""


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What is written on the way."""

    log_every: int = 20
    """Steps between lines of metrics.jsonl."""

    eval_every: int = 500
    """Steps between validations."""

    save_every: int = 500
    """Steps between checkpoints."""

    keep: int = 2
    """Checkpoints to keep."""

    trackers: tuple[TrackerName, ...] = ()
    """Where metrics are written besides metrics.jsonl."""

    rollout_suite: str | None = None
    """LIBERO suite to play now and then (needs the libero extra); None plays none."""

    rollout_every: int = 5_000
    """Steps between these."""

    rollout_episodes: int = 1
    """Episodes of each task."""
