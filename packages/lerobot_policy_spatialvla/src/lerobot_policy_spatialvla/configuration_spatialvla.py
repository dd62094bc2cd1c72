"""The options behind --policy.type=spatialvla: spatialvla's own in groups, and what LeRobot asks every policy for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from spatialvla.data.augmentation import Augmentation
from spatialvla.data.lerobot import Feature
from spatialvla.errors import InputError
from spatialvla.execution import Execution
from spatialvla.training.config import TrainConfig
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.options import AdaptationOptions, NetworkOptions, ObjectiveOptions, StartOptions
from spatialvla.training.recipes import finetune, nano, pretrain
from spatialvla.training.start.build import network_config

_KEPT = ("dtype", "shape", "names", "info")
"""What is kept of a feature's description."""


@PreTrainedConfig.register_subclass("spatialvla")
@dataclass
class SpatialVLAConfig(PreTrainedConfig):
    """A SpatialVLA policy in LeRobot. Raises InputError for options that contradict each other."""

    start: StartOptions = field(default_factory=StartOptions)
    """What training starts from; start.policy is a checkpoint: nano, a folder, a Hub id or an adapter."""

    network: NetworkOptions = field(default_factory=NetworkOptions)
    """The network where no checkpoint is given."""

    adaptation: AdaptationOptions = field(default_factory=AdaptationOptions)
    """How much of a policy changes: full or adapt. LoRA has LeRobot's own options, --peft."""

    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    """What is learned."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Of images in training; intrinsics and depth move along."""

    execution: Execution = field(default_factory=Execution)
    """Which actions of a chunk `select_action` gives out."""

    mapping: str | None = None
    """YAML file that says what the features mean: cameras, depth, action, gripper, state, calibration."""

    dataset: str | None = None
    """Whose statistics scale the actions; None takes the dataset that was trained on last, or the only one."""

    depth_unit: Literal["mm", "m"] = "mm"
    """What 1 is in depth images, as --dataset.depth_output_unit says."""

    unknown_units: bool = False
    """Act though nobody says what 1 in the actions is."""

    dtype: str = "float32"
    """Of the weights when acting. In training weights are float32 and products in it."""

    learning_rate: float | None = None
    """Peak; None takes that of spatialvla's recipe for what training starts from."""

    weight_decay: float | None = None
    """Of matrices alone; None takes the recipe's."""

    clip_norm: float | None = None
    """Largest norm of the gradients; None takes the recipe's."""

    warmup_steps: int = 100
    """Steps in which the learning rate rises; then it falls to 0 along a cosine."""

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            (kind.value for kind in FeatureType), NormalizationMode.IDENTITY
        )
    )
    """LeRobot normalizes nothing: the checkpoint's own processor does."""

    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The features of the dataset that it was trained on, as info.json has them; filled in by LeRobot."""

    action_feature_names: list[str] | None = None
    """What the dataset calls the numbers of an action, by which LeRobot orders a robot's; filled in by LeRobot."""

    rtc_config: RTCConfig | None = None
    """Set by LeRobot where it asks for chunks while the last one is executed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaptation.mode == "lora":
            raise InputError(
                "LoRA has LeRobot's own options; leave adaptation.mode as it is, and give --peft.method_type=LORA and "
                "--peft.r."
            )
        self.run()

    def run(self) -> TrainConfig:
        """The same as a run of spatialvla's own: its recipe, with all options that differ from their defaults.

        Raises InputError for options that contradict each other.
        """
        groups = (self.start, self.network, self.adaptation, self.objective)
        options = {name: value for group in groups for name, value in _changed(group).items()}
        optimization = {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
        }
        options |= {name: value for name, value in optimization.items() if value is not None}
        # What needs the whole dataset in memory, or tasks beside the policy's own, is for spatialvla's own loop.
        apart = replace(self._recipe(), in_memory=False, guidance=Guidance(), instructions=None, held_out=0.0)
        return replace(apart, augmentation=self.augmentation, **options)

    def _recipe(self) -> TrainConfig:
        if self.start.policy is not None:
            return finetune(self.adaptation.mode, self.start.policy)
        return nano() if self.network.preset == "nano" and self.network.paligemma is None else pretrain()

    @property
    def chunk_size(self) -> int:
        """Steps of a chunk."""
        return self.start.chunk_size or network_config(self.run()).action_chunk_size

    @property
    def features(self) -> Mapping[str, Feature]:
        """What there is to be seen and done: in the dataset of training, or else as LeRobot tells of it."""
        told = {**(self.input_features or {}), **(self.output_features or {})}
        specs = self.described or {name: _spec(one.type, one.shape) for name, one in told.items()}
        found = {name: Feature.from_json(name, spec) for name, spec in specs.items()}
        return {name: feature for name, feature in found.items() if feature is not None}

    def set_dataset_feature_metadata(self, features: Mapping[str, Mapping[str, Any]]) -> None:
        """Called by LeRobot with the features of the dataset to train on."""
        self.described = {
            name: {**{key: spec[key] for key in _KEPT if key in spec}, "shape": list(spec["shape"])}
            for name, spec in features.items()
        }

    def validate_features(self) -> None:
        """Nothing to add: what is missing is told where the cameras are looked for."""

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW as the run has it."""
        run = self.run()
        return AdamWConfig(
            lr=run.learning_rate, betas=run.betas, weight_decay=run.weight_decay, grad_clip_norm=run.clip_norm
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        """A rise, then a cosine down to 0 at the end of the run."""
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.warmup_steps)

    @property
    def observation_delta_indices(self) -> None:
        """The present alone."""

    @property
    def action_delta_indices(self) -> list[int]:
        """A chunk, from the present on."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None are read."""


def _changed(group: Any) -> dict[str, Any]:
    """The options that differ from their defaults."""
    return {
        one.name: getattr(group, one.name) for one in fields(group) if getattr(group, one.name) != one.default
    }


def _spec(kind: FeatureType, shape: tuple[int, ...]) -> dict[str, Any]:
    """An entry of info.json for what LeRobot tells by its kind and shape alone."""
    if kind is not FeatureType.VISUAL:
        return {"dtype": "float32", "shape": list(shape)}
    return {"dtype": "image", "shape": [*shape[1:], shape[0]], "info": {"is_depth_map": shape[0] == 1}}
