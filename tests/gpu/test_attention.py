"""On a GPU the fast attention path equals the portable one, forward and backward."""

from __future__ import annotations

import pytest
import torch
from longhaul_trainer.model.flex import attend, block_mask
from longhaul_trainer.model.mask import document_mask
from torch.nn import functional

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]


@pytest.mark.parametrize("window", [0, 100])
def test_fast_path_equals_the_portable_one_forward_and_backward(window: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    lengths = [300, 1, 500, 223]
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0).cuda()
    mask = document_mask(positions, window)
    gradients = []
    made = [torch.randn(1, heads, 1024, 64, device="cuda", generator=generator) for heads in (8, 2, 2)]
    weight = torch.randn(1, 8, 1024, 64, device="cuda", generator=generator)
    outputs = []
    for fast in (True, False):
        queries, keys, values = (tensor.clone().requires_grad_() for tensor in made)
        if fast:
            out = attend(queries, keys, values, block_mask(positions, window, None))
        else:
            out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
        (out * weight).sum().backward()
        outputs.append(out.detach())
        gradients.append([tensor.grad for tensor in (queries, keys, values)])
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-3, rtol=2e-3)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-3)
