"""The decoder of a GPU, interpreted where there is none: the hidden states of the layers as written."""

import pytest
import torch

from spatialvla.model.config import Gemma2Config
from spatialvla.model.fast.decoder import fuse_layer
from spatialvla.model.gemma2 import Gemma2Decoder, KVCache, attention_bias, rotary_angles

pytest.importorskip("triton")
gpu_decoder = pytest.importorskip("spatialvla.model.fast.gpu_decoder")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
@pytest.mark.parametrize("weights", [None, "int8", "int4"])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (2, 5)])
def test_few_tokens_go_the_same_way(B, T, weights):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        query_pre_attn_scalar=24,
    )
    written = Gemma2Decoder(config).to(DEVICE).requires_grad_(False)
    for layer in written.layers:
        for part in layer.parameters():
            part.normal_(std=0.1)
        fuse_layer(layer, config, weights)
    fast = gpu_decoder.GPUDecoder(written)
    slots = torch.arange(30, 30 + T, device=DEVICE)
    bias = attention_bias((torch.arange(40, device=DEVICE) <= slots[:, None]).expand(B, T, 40), torch.float32)
    near = attention_bias((torch.arange(40, device=DEVICE) == slots[:, None]).expand(B, T, 40), torch.float32)
    rotary = rotary_angles(slots.expand(B, T), 24, 1e4, torch.float32)
    x = torch.randn(B, T, 64, device=DEVICE)
    states = []
    for decoder in (written, fast):
        torch.manual_seed(1)
        made = [torch.randn(B, 2, 40, 24, device=DEVICE) for _ in range(4)]
        cache = KVCache(tuple(made[:2]), tuple(made[2:]))
        states.append((decoder.run_layers(x, rotary, near, bias, cache, slots, None), *made))
    # A GPU's matrix units round float32 to tf32.
    tolerance = 1e-4 if DEVICE == "cpu" else 0.02
    for wanted, found in zip(*states, strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < tolerance
