"""Weights in 4 bits: their format, packed into panels for the kernels, and products with them.

A weight is scale · multiplier · (number - 8): a number of 4 bits each, a multiplier of 4 bits for `PART` neighboring
inputs, and a bfloat16 scale for `GROUP`, of each output. multiplier · (number - 8) fits in 8 bits, so that whatever
multiplies weights in 8 bits multiplies these exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from spatialvla.kernels.library import ADDRESS, FLAG, SIZE, bfloat16, entry, operator, pointer, require
from spatialvla.kernels.products import GROUP, PANEL

PART = 32
"""Neighboring inputs that share a multiplier, as in four_bits.cpp."""

ZERO = 8
"""The number that stands for a weight of 0."""

_BLOCK = GROUP // 2 * PANEL + 4 * PANEL
"""Bytes of a group of a panel, as in four_bits.cpp."""

_PACKED_AT_ONCE = 16
"""Panels that are packed together."""

_WIDENED_AT_ONCE = 256
"""Outputs that a CPU widens together, while they are in its cache: all at once takes three times as long."""


@dataclass(frozen=True)
class FourBits:
    """A weight (N, K) in 4 bits, as it is kept in files: rows of outputs, K padded to whole groups with zeros.

    numbers: (N, groups * GROUP / 2) uint8, two neighboring inputs in each byte, the first in its low half.
    scales: (N, groups) int32, each a bfloat16 scale in the high half and 4 multipliers below it, the first lowest.
    """

    numbers: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, numbers: torch.Tensor, multipliers: torch.Tensor, scales: torch.Tensor) -> FourBits:
        """numbers: (N, K) from 0 to 15. multipliers: (N, parts) from 0 to 15. scales: (N, groups) bfloat16."""
        full = F.pad(numbers.to(torch.uint8), (0, -numbers.shape[1] % GROUP), value=ZERO)
        shares = F.pad(multipliers.int(), (0, -multipliers.shape[1] % (GROUP // PART)))
        places = torch.arange(0, 16, 4, dtype=torch.int32, device=shares.device)
        below = (shares.unflatten(1, (-1, GROUP // PART)) << places).sum(dim=-1, dtype=torch.int32)
        high = scales.view(torch.int16).int() << 16
        return cls(full[:, ::2] | full[:, 1::2] << 4, high | below)

    def integers(self) -> torch.Tensor:
        """(N, padded K) int8: multiplier · (number - 8)."""
        numbers = torch.stack([self.numbers & 15, self.numbers >> 4], dim=-1).flatten(1).to(torch.int8) - ZERO
        multipliers = self._multipliers().to(torch.int8).flatten(1)
        integers: torch.Tensor = numbers.unflatten(1, (-1, PART)) * multipliers[..., None]
        return integers.flatten(1)

    def _multipliers(self) -> torch.Tensor:
        """(N, groups, parts of a group), int32."""
        places = torch.arange(0, 16, 4, dtype=torch.int32, device=self.scales.device)
        return self.scales[..., None] >> places & 15

    def group_scales(self) -> torch.Tensor:
        """(N, groups), bfloat16."""
        return (self.scales >> 16).to(torch.int16).view(torch.bfloat16)

    def widened(self, dtype: torch.dtype, inputs: int) -> torch.Tensor:
        """The weight (N, K) that this stands for. inputs: K."""
        N, each = self.numbers.shape
        wide = torch.empty(N, 2 * each, dtype=dtype, device=self.numbers.device)
        at_once = _WIDENED_AT_ONCE if wide.device.type == "cpu" else max(N, 1)
        for first in range(0, N, at_once):
            some = slice(first, first + at_once)
            FourBits(self.numbers[some], self.scales[some])._widen(wide[some])
        return wide[:, :inputs]

    def _widen(self, wide: torch.Tensor) -> None:
        """Fills (N, padded K). All products are exact in float32, before the only rounding."""
        N = len(wide)
        steps = (self._multipliers() * self.group_scales().float()[..., None]).view(N, -1, 1)
        pairs = self.numbers.view(N, -1, PART // 2)
        halves = wide.view(N, -1, PART // 2, 2)
        for half, numbers in enumerate((pairs & 15, pairs >> 4)):
            halves[..., half] = (numbers.float() - ZERO) * steps

    def packed(self) -> torch.Tensor:
        """(panels, groups, bytes) for `int4_product`; little memory beside it is taken meanwhile."""
        N, groups = self.scales.shape
        packed = torch.empty(-(-N // PANEL), groups, _BLOCK, dtype=torch.uint8)
        for rows in range(0, N, _PACKED_AT_ONCE * PANEL):
            some = slice(rows, rows + _PACKED_AT_ONCE * PANEL)
            part = FourBits(self.numbers[some], self.scales[some])._packed()
            packed[rows // PANEL : rows // PANEL + len(part)] = part
        return packed

    def _packed(self) -> torch.Tensor:
        N, groups = self.scales.shape
        numbers = F.pad(self.numbers, (0, 0, 0, -N % PANEL), value=ZERO | ZERO << 4)
        scales = F.pad(self.scales, (0, 0, 0, -N % PANEL)).view(-1, PANEL, groups).transpose(1, 2)
        each = torch.stack([numbers & 15, numbers >> 4], dim=-1).view(-1, PANEL, groups, GROUP // 8, 2, 4)
        bytes_ = (each[..., 0, :] | each[..., 1, :] << 4).permute(0, 2, 3, 1, 4).flatten(2)
        return torch.cat([bytes_, scales.contiguous().view(torch.uint8)], dim=2)


def int4_product(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int, bits: int
) -> torch.Tensor:
    """(…, K) times a packed weight (N, K) transposed, plus a float32 bias (N,): (…, N), in x's dtype.

    x: bfloat16 or float32. outputs: N. bits: 8 or 16, of x, with a scale for each row and group.
    """
    return _int4_product_operator(x, packed, bias, outputs, bits)


def _int4_product(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int, bits: int
) -> torch.Tensor:
    x = x.contiguous()
    K, wide = x.shape[-1], int(x.dtype == torch.float32)
    if not wide:
        bfloat16(x)
    panels, groups = packed.shape[:2]
    fits = groups == -(-K // GROUP) and panels == -(-outputs // PANEL) and packed.shape[2] == _BLOCK
    require(
        fits and (bias is None or len(bias) == outputs),
        f"{K} inputs and {outputs} outputs, with {groups} groups of inputs in {panels} panels of the weight",
    )
    y = x.new_empty(*x.shape[:-1], outputs)
    arguments = map(pointer, (x, packed, bias, y))
    _int4_entry(*arguments, x.numel() // K, outputs, K, bits // 8, wide, torch.get_num_threads())
    return y


_int4_entry = entry("int4_product", *[ADDRESS] * 4, *[SIZE] * 4, FLAG, FLAG)
_int4_product_operator = operator(
    "int4_product(Tensor x, Tensor packed, Tensor? bias, SymInt outputs, int bits) -> Tensor",
    _int4_product,
    lambda x, packed, bias, outputs, bits: x.new_empty(*x.shape[:-1], outputs),
)
