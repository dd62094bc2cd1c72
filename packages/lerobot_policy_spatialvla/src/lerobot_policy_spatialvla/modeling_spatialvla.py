"""SpatialVLA as LeRobot's tools meet it: a loss for their loop, actions for their robots, folders for their Hub."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy

from lerobot_policy_spatialvla.acting import Actor
from lerobot_policy_spatialvla.batch_reader import BatchReader
from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig
from lerobot_policy_spatialvla.peft_options import lora_options
from lerobot_policy_spatialvla.start import start
from spatialvla.data.batches import collated
from spatialvla.errors import InputError
from spatialvla.execution import Executor
from spatialvla.model.folders import MODEL, is_adapter, resolve_folder
from spatialvla.model.lora import add_lora, has_lora, save_adapter
from spatialvla.model.published import mirror_action_embeddings
from spatialvla.training.feed.given_tokens import with_given_tokens
from spatialvla.training.metrics import token_metrics
from spatialvla.training.optimizer import parameter_groups
from spatialvla.training.recipes import finetune
from spatialvla.training.start.trainable import select_trainable

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata


class SpatialVLAPolicy(PreTrainedPolicy):
    """A model, its processor and a mapping of LeRobot's features, with LeRobot's methods around them.

    Batches are LeRobot's: images (B, 3, H, W) in [0, 1], depth (B, 1, H, W), numbers (B, N), `task` as B texts.
    """

    config_class = SpatialVLAConfig
    name = "spatialvla"
    config: SpatialVLAConfig

    def __init__(
        self,
        config: SpatialVLAConfig,
        *,
        dataset_meta: LeRobotDatasetMetadata | None = None,
        folder: Path | None = None,
        **_: Any,
    ) -> None:
        """dataset_meta: of the dataset to train on; None to act alone. folder: of a checkpoint that LeRobot wrote.

        Raises InputError where something does not fit, CheckpointError for a folder that cannot be used.
        """
        super().__init__(config)
        begun = start(config, dataset_meta, folder)
        self.model, self.processor, self.mapping = begun.model, begun.processor, begun.mapping
        self._base = begun.base
        self.reset()

    # ------------------------------------------------------------------ saved and loaded

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A folder that LeRobot saved, or its Hub id; in eval mode. kwargs: as of `__init__`, and of LeRobot's own.

        Raises InputError for a checkpoint without LeRobot's files: that is named by --policy.start.policy.
        """
        folder = resolve_folder(pretrained_name_or_path, revision, token)
        if folder.name != MODEL or not (folder.parent / "config.json").exists():
            raise InputError(
                f"{pretrained_name_or_path} is a checkpoint of spatialvla's own; name it by --policy.type=spatialvla "
                f"--policy.start.policy={pretrained_name_or_path} in place of --policy.path."
            )
        if config is None:
            config = PreTrainedConfig.from_pretrained(folder.parent)
        policy = cls(config, folder=folder, dataset_meta=kwargs.get("dataset_meta"))
        policy.to(config.device).eval()
        return policy

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, torch.Tensor] | None = None
    ) -> None:
        """LeRobot's config.json, the mapping, and inside `model` the policy as every verb of spatialvla loads it.

        Raises InputError under FSDP, whose weights are not whole.
        """
        if state_dict is not None:
            raise InputError(
                "SpatialVLA's weights are saved whole here; train with DDP, or under FSDP with spatialvla finetune."
            )
        folder = save_directory / MODEL
        self.processor.save_pretrained(folder)
        if has_lora(self.model):
            save_adapter(self.model, folder)
        else:
            mirror_action_embeddings(self.model)
            self.model.save_pretrained(folder)
        self.mapping.save(save_directory)
        self.config._save_pretrained(save_directory)

    # ------------------------------------------------------------------ learning

    def wrap_with_peft(
        self, peft_config: Any = None, peft_cli_overrides: dict[str, Any] | None = None
    ) -> SpatialVLAPolicy:
        """Adds spatialvla's LoRA adapters in place, unless they are there already.

        Raises InputError for options it does not have, and where there is no whole checkpoint to add them to.
        """
        if has_lora(self.model):
            return self
        if peft_config is not None:
            raise InputError(
                "Give LoRA's options one by one, --peft.r and so on, in place of a configuration."
            )
        if self._base is None or is_adapter(resolve_folder(self._base)):
            raise InputError(
                "LoRA starts from a whole checkpoint; name one by --policy.start.policy, or by --policy.path."
            )
        add_lora(self.model, self._base, lora_options(peft_cli_overrides or {}, self.model.regridded))
        select_trainable(self.model, "lora", vision_tower=not self.config.start.freeze_vision_tower)
        return self

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Groups with the decay and the rate that spatialvla's own training gives them."""
        run = self.config.run()
        rate = run.learning_rate
        if has_lora(self.model) and self.config.learning_rate is None:
            rate = finetune("lora", run.policy).learning_rate
        return [
            {"params": group["params"], "weight_decay": group["weight_decay"], "lr": rate * group["factor"]}
            for group in parameter_groups(self, run)
        ]

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, float]]:
        """The cross-entropy of the action tokens, and how well they are predicted.

        Raises InputError for what the model cannot be trained on.
        """
        # From torch's own numbers, which LeRobot seeds, saves and restores.
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        samples = self._reader.to_learn(batch, rng, augmented=self.training)
        keys, run = [str(self.config.dataset)] * len(samples), self.config.run()
        loaded = collated(self.processor, samples, keys, np.zeros(len(samples), np.int64))
        if self.training:
            loaded = replace(loaded, batch=with_given_tokens(loaded.batch, run, self.processor, rng))
        output = self.model.training_loss(loaded.batch.to(self.model.device), run.mask)
        numbers = token_metrics(output, loaded, self.processor, self.model.config, keys[:1])
        return output.loss, {
            name: total / count for name, (total, count) in numbers.items() if count and name != "loss"
        }

    # ------------------------------------------------------------------ acting

    def reset(self) -> None:
        """Starts new episodes."""
        self._executors: list[Executor] = []
        self._upcoming: deque[np.ndarray] = deque()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> torch.Tensor:
        """(B, N) the next action of each robot, as the dataset has them; asks the model when the last chunks are over.

        Raises InputError for what the model cannot use, and where it is not known what the actions mean.
        """
        if not self._upcoming:
            rows = self._actor.prepared(batch)
            if len(self._executors) != len(rows):
                self._executors = [self._actor.policy.new_executor() for _ in rows]
            chunks = self._actor.policy.decide(rows, self._executors)
            executed = [executor(chunk) for executor, chunk in zip(self._executors, chunks, strict=True)]
            self._upcoming.extend(self._actor.numbers(executed).swapaxes(0, 1))
        return torch.from_numpy(self._upcoming.popleft()).to(self.model.device)

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        *,
        inference_delay: int = 0,
        prev_chunk_left_over: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(B, T, N) whole chunks, as the dataset has actions.

        inference_delay: steps that pass until the chunk can be executed. prev_chunk_left_over: (P, N) what is left of
        the last one; while real-time chunking is on, the chunk begins with those of its steps that pass.
        Raises InputError as `select_action`.
        """
        committed, chunking = None, self.config.rtc_config
        if chunking is not None and chunking.enabled and prev_chunk_left_over is not None:
            committed = self._actor.committed(prev_chunk_left_over.float().cpu().numpy(), inference_delay)
        chunks = self._actor.policy.predict(self._actor.prepared(batch, committed))
        numbers = self._actor.numbers([chunk.actions for chunk in chunks])
        return torch.from_numpy(numbers).to(self.model.device)

    def supports_rtc(self) -> bool:
        """Yes, by committed steps."""
        return True

    # ------------------------------------------------------------------ inside

    @cached_property
    def _reader(self) -> BatchReader:
        return BatchReader(
            self.config, self.model.config, self.processor, self.mapping.mapping, self.config.dataset
        )

    @cached_property
    def _actor(self) -> Actor:
        return Actor(self.config, self.model, self.processor, self.mapping)
