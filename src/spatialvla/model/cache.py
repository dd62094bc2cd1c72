"""The KV cache: keys and values of all slots of a chunk, in memory allocated once and written in place.

Shape suffixes as in `gemma2`: B batch, T new tokens, S slots, K key/value heads, H head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spatialvla.errors import InputError
from spatialvla.model.config import Gemma2Config


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the slots of a batch, whether written yet or not; masks hide what is not.

    keys, values: a tensor (B, K, S, H) a layer. They are separate tensors so that writing to one is no change
    of the others to a compiler. All shapes stay as they were allocated.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @classmethod
    def allocate(
        cls, config: Gemma2Config, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> KVCache:
        """Zeros for `batch` rows of `capacity` slots."""
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        keys, values = (
            tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers))
            for _ in range(2)
        )
        return cls(keys, values)

    @property
    def capacity(self) -> int:
        """S."""
        return self.keys[0].shape[2]

    def check_room(self, tokens: int) -> None:
        """Raises InputError if a row of so many tokens does not fit; `update` itself checks nothing."""
        if tokens > self.capacity:
            raise InputError(f"The KV cache holds {self.capacity} tokens; {tokens} do not fit.")

    def clear(self, first: int = 0) -> None:
        """Zeros the slots from `first` on, before the cache serves another batch.

        A hidden slot weighs nothing, but nothing times a NaN that another request left behind is NaN.
        """
        torch._foreach_zero_([tensor[:, :, first:] for tensor in (*self.keys, *self.values)])  # one launch

    def update(
        self, layer: int, k_BKTH: torch.Tensor, v_BKTH: torch.Tensor, slots_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes new keys and values at the slots `slots_T`; returns all of this layer's, (B, K, S, H)."""
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, slots_T, k_BKTH.to(keys.dtype))
        values.index_copy_(2, slots_T, v_BKTH.to(values.dtype))
        return keys, values
