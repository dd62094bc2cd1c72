"""Tiny decoders with random weights and random prompts: thousands are affordable, as there is no vision tower to run.

They compute in float64, where passes of different widths never round a tie apart.
"""

from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import strategies as st

from spatialvla.batch import Batch
from spatialvla.model.config import Gemma2Config, SpatialVLAConfig
from spatialvla.model.spatialvla import SpatialVLA

TEXT, IMAGE, PAD = 12, 3, 0
SHAPE = (2, 3, 2)
"""Bins of the translation block and of the rotation block."""
CELLS = 12


class TextOnly(SpatialVLA):
    """The image's only token is embedded like a word."""

    def embed(self, batch: Batch) -> torch.Tensor:
        return self.embed_tokens(batch.input_ids)


@cache
def decoder(
    layers: int, heads: int, kv_heads: int, window: int, softcap: float | None, chunk: int
) -> TextOnly:
    text = Gemma2Config(
        vocab_size=TEXT + 2 * CELLS + 2,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=4,
        query_pre_attn_scalar=4,
        sliding_window=window,
        attn_logit_softcapping=softcap,
        final_logit_softcapping=softcap,
    )
    config = SpatialVLAConfig(
        text=text,
        vision={
            "hidden_size": 8,
            "image_size": 14,
            "intermediate_size": 8,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "patch_size": 14,
            "vision_use_head": False,
        },
        depth={},
        image_token_index=IMAGE,
        action_token_begin_idx=TEXT,
        translation_token_num=CELLS,
        rotation_token_num=CELLS,
        action_chunk_size=chunk,
        use_vision_zoe=False,
    )
    model = TextOnly.from_config(config, dtype=torch.float64).eval()
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """A model, prompts for it, and where more of its randomness comes from."""

    model: TextOnly
    batch: Batch
    generator: torch.Generator

    @property
    def chunk(self) -> int:
        """Tokens of a chunk."""
        return 3 * self.model.config.action_chunk_size

    def integers(self, below: int, *shape: int) -> torch.Tensor:
        return torch.randint(below, shape, generator=self.generator)

    def actions(self) -> torch.Tensor:
        """(B, chunk): random tokens, each of its slot's kind."""
        slots = [
            rows.start + self.integers(rows.stop - rows.start, len(self.batch), 1)
            for _ in range(self.model.config.action_chunk_size)
            for rows in self.model.config.grammar
        ]
        return torch.cat(slots, dim=1)

    def prefixes(self) -> torch.Tensor:
        """(B, chunk) committed tokens: random ones, of random lengths, many of them 0."""
        lengths = (self.integers(2 * self.chunk, len(self.batch)) - self.chunk + 1).clamp(min=0)
        return self.actions().masked_fill(torch.arange(self.chunk) >= lengths[:, None], -1)

    def greedy(self, committed: torch.Tensor) -> torch.Tensor:
        """(B, chunk): what comes of one row and one token at a time, all of it computed again, without a cache."""
        return torch.stack([self._row(row, committed[row]) for row in range(len(self.batch))])

    def _row(self, row: int, committed: torch.Tensor) -> torch.Tensor:
        prompt = self.batch.input_ids[row][self.batch.attention_mask[row]]
        language, ids = self.model.language_model, prompt.tolist()
        for slot in range(self.chunk):
            tokens = torch.tensor([ids])
            visible = torch.ones(1, len(ids), len(ids), dtype=torch.bool).tril()
            visible[:, :, : len(prompt)] = True
            positions = torch.arange(1, len(ids) + 1)[None]
            hidden = language.model(self.model.embed_tokens(tokens), positions, visible)
            kind = self.model.config.grammar[slot % 3]
            best = kind.start + int(language.logits(hidden[0, -1])[kind].argmax())
            ids.append(int(committed[slot]) if committed[slot] >= 0 else best)
        return torch.tensor(ids[len(prompt) :])


def made(model: TextOnly, lengths: list[int], padding: int, seed: int) -> Case:
    """Random weights and prompts of these lengths, with so much more padding than they need."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(std=0.5, generator=generator)
    width = max(lengths) + 1 + padding
    ids = torch.randint(4, TEXT, (len(lengths), width), generator=generator)
    real = torch.arange(width) >= width - 1 - torch.tensor(lengths)[:, None]
    ids[real.long().argmax(1)[:, None] == torch.arange(width)] = IMAGE
    batch = Batch(
        input_ids=ids.masked_fill(~real, PAD),
        attention_mask=real,
        pixel_values=torch.zeros(len(lengths), 3, 14, 14),
        intrinsics=torch.eye(3).expand(len(lengths), 3, 3),
    )
    return Case(model, batch, generator)


def example() -> Case:
    return made(decoder(1, 2, 1, 8, 5.0, 2), [3, 7], 1, seed=7)


@st.composite
def cases(draw: st.DrawFn, rows: int = 6) -> Case:
    """Models of several shapes, some with a window shorter than the prompt; prompts of different lengths, padded."""
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 2)]))
    layers, window = draw(st.integers(1, 3)), draw(st.sampled_from([3, 8, 4096]))
    softcap, chunk = draw(st.sampled_from([None, 5.0])), draw(st.sampled_from([1, 2, 4]))
    return made(
        decoder(layers, heads, kv_heads, window, softcap, chunk),
        draw(st.lists(st.integers(1, 7), min_size=1, max_size=rows)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 2**32 - 1)),
    )
