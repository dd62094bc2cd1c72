"""SpatialVLA as users meet it: a network that is loaded, saved, asked for actions, and made fast for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Int

from spatialvla.actions.grids import Cells
from spatialvla.batch import Batch
from spatialvla.common.device import find_device
from spatialvla.common.dtypes import find_dtype
from spatialvla.common.json_files import write_json
from spatialvla.common.manifest import recording
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.decoding.chunk import Decoded, decode
from spatialvla.model.decoding.passes import Passes, Sampling
from spatialvla.model.decoding.text import generate_text
from spatialvla.model.fast.optimize import optimize, warm_up
from spatialvla.model.fast.options import Optimization
from spatialvla.model.hub import upload_saved
from spatialvla.model.loading import PROCESSOR, load
from spatialvla.model.lora import has_lora
from spatialvla.model.network import Network
from spatialvla.model.published import published_tensors
from spatialvla.model.weights import MAX_SHARD_SIZE, write_tensors


class SpatialVLA(Network):
    """SpatialVLA (arXiv 2501.15830): a batch of images and prompts in, chunks of action tokens out.

    passes: how decoding runs the network, as it is written or compiled. optimization: how the model was
    prepared for inference; None as it was loaded.
    """

    def __init__(self, config: SpatialVLAConfig) -> None:
        """Random weights; `from_pretrained` loads trained ones."""
        super().__init__(config)
        self.passes = Passes(self)
        self.optimization: Optimization | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        base: str | Path | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Loads a folder or Hub id in the published layout, in eval mode.

        Of an adapter (see `spatialvla.model.lora`) it loads the base and merges the adapter into it. base: in
        place of the one that its adapter_config.json names.
        dtype: of the weights, or its name, such as "bfloat16". device: "auto" is the GPU if there is one.
        revision, token: of the Hub's; see `resolve_folder`.
        Raises InputError for a dtype or device that is not there,
        CheckpointError if a file is missing or truncated, or a tensor is missing, extra or misshapen.
        """
        place = find_device(device)
        return load(cls, path_or_id, find_dtype(dtype), revision, base, token).to(place).eval()

    def save_pretrained(self, path: str | Path, *, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
        """Writes config.json and model.safetensors in the published layout, each at once or not at all.

        max_shard_size: bytes, or a text such as "5GB", above which the weights are split over several files.
        Raises InputError after `optimize`.
        """
        if self.optimization is not None:
            raise InputError(
                "This model was optimized for inference and cannot be saved; load it again to save it."
            )
        folder = Path(path)
        tensors = {key: tensor.detach().cpu() for key, tensor in published_tensors(self).items()}
        write_tensors(tensors, folder, max_shard_size)
        beside_processor = (folder / PROCESSOR).exists()
        with recording(folder, ["config.json"]):
            written = self.config.to_json(beside_processor)
            if self.config.quantization is not None:
                written["dtype"] = str(self.dtype).removeprefix("torch.")
            write_json(folder / "config.json", written)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | bool | None = None,
        revision: str | None = None,
        private: bool = False,
        max_shard_size: int | str = MAX_SHARD_SIZE,
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hub, as `upload_folder` says; gives the address.

        Users of the model need its processor, too: `Processor.push_to_hub`. `spatialvla export --push` uploads both
        and a model card.
        """
        save = partial(self.save_pretrained, max_shard_size=max_shard_size)
        return upload_saved(save, repo_id, token=token, revision=revision, private=private)

    def optimize(self, options: Optimization | None = None) -> Self:
        """Prepares the model for inference in place and returns it. It can then neither be saved nor trained.

        options: None keeps all numbers in the bits they have, and compiles nothing.
        In float32 the same actions come out; in bfloat16 products round differently than before, and in 8
        bits actions change a little (docs/measurements/inference.md says how much).
        Raises InputError where the device cannot do what is asked for, and for a model that was optimized
        before.
        """
        if self.optimization is not None:
            raise InputError(
                "This model has been optimized already; load it again to optimize it in another way."
            )
        options = options or Optimization()
        self.passes = optimize(self, options)
        if self.config.quantization is not None:
            options = replace(options, weights="int4")
        self.optimization = options
        if options.compile:
            for rows, tokens in product(options.batch_sizes, options.text_tokens):
                warm_up(self.passes, rows, tokens, drafts=options.drafts)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, as of `Network`. Raises InputError after `optimize`, and in 4 bits without adapters."""
        if mode and self.optimization is not None:
            raise InputError(
                "This model was optimized for inference and cannot be trained; load it again to train it."
            )
        if mode and self.config.quantization is not None and not has_lora(self):
            raise InputError(
                "This model's weights are in 4 bits and cannot be trained, but adapters on them can: fine-tune it "
                "with --mode lora, or the checkpoint that it was made of."
            )
        return super().train(mode)

    def generate(
        self,
        batch: Batch,
        constrained: bool = True,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Int[torch.Tensor, "B ids"]:
        """Action tokens as vocabulary ids, 3 a step.

        constrained: only token sequences that are actions can come out: translation, rotation, gripper, and
        so on. Otherwise any vocabulary entry may, up to `max_new_tokens`, and rows are filled with padding
        after <eos>.
        temperature: 0 takes the most likely token, above 0 samples.
        Raises NotFiniteError where logits are NaN or infinite.
        """
        sampling = Sampling.at(temperature, generator)
        if not constrained:
            longest = 3 * self.config.action_chunk_size if max_new_tokens is None else max_new_tokens
            return generate_text(self.passes, batch, longest, sampling)
        if max_new_tokens is not None:
            raise InputError("A constrained chunk always has 3 tokens a step; leave max_new_tokens out.")
        return decode(self.passes, batch, sampling=sampling).ids

    def decode(
        self,
        batch: Batch,
        *,
        committed_ids: Int[torch.Tensor, "B ids"] | None = None,
        draft_ids: Int[torch.Tensor, "B ids"] | None = None,
        tolerance: int = 0,
        cells: Cells | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        probabilities: bool = False,
    ) -> Decoded:
        """A chunk of action tokens for each row, going on from what is committed and helped by drafts.

        committed_ids: 3 * chunk vocabulary ids a row, -1 in free slots. The first ids of a row, which come
        out as they went in; the others are what the model says behind them. Rows may have committed different
        numbers.
        draft_ids: guesses of what will come out, -1 where there is none (then the last id of its kind
        is held, which suits grippers). Right ones save passes, all of them right leaves one; each pass is
        wider, which costs little where weights are streamed, but something in a batch that keeps the device
        busy. In float32 the ids equal those without drafts. In bfloat16 passes of different widths round
        differently, so that of two ids whose logits are equal to within rounding either may come out. None:
        one id a pass.
        tolerance: also keep a draft whose cell is at most so many bins from the most likely one along each
        dimension, given `cells`, the grid's own (`processor.grid.cells`). 0: greedy decoding exactly.
        temperature: 0 takes the most likely token, above 0 samples, without drafts.
        probabilities: also give those of all cells, which takes one pass more.
        Raises InputError on ids that are not of their slot's kind, and where memory does not suffice, and
        NotFiniteError where logits are NaN or infinite, for all rows.
        """
        sampling = Sampling.at(temperature, generator)
        return decode(self.passes, batch, committed_ids, draft_ids, tolerance, cells, sampling, probabilities)
