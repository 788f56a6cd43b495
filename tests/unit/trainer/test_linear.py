from __future__ import annotations

import pytest
import torch
from longhaul_trainer.model.linear import MULTIPLY, linear
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode


class Seen(TorchDispatchMode):
    """Counts our own products."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.products += func is MULTIPLY
        return func(*args, **(kwargs or {}))


def factors(dtype: torch.dtype, *, biased: bool, shape: tuple[int, ...] = (3, 17)) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(*shape, 29, generator=generator, dtype=torch.float64)
    weight = torch.randn(41, 29, generator=generator, dtype=torch.float64)
    bias = torch.randn(41, generator=generator, dtype=torch.float64)
    return [value.to(dtype).requires_grad_() for value in (rows, weight)] + [
        bias.to(dtype).requires_grad_() if biased else None
    ]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(3, 17), (51,), (2, 3, 5)])
def test_product_and_gradients_are_those_of_float64(shape: tuple[int, ...], *, biased: bool) -> None:
    ours, exact = factors(torch.float32, biased=biased, shape=shape), factors(torch.float64, biased=biased, shape=shape)
    with Seen() as seen:
        out = linear(*ours)
        out.square().sum().backward()
    functional.linear(*exact).square().sum().backward()
    assert seen.products == 3
    torch.testing.assert_close(out.double(), functional.linear(*exact), rtol=1e-5, atol=1e-5)
    for mine, reference in zip(ours, exact, strict=True):
        if mine is not None and reference is not None:
            torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-5, atol=1e-3)


def test_product_repeated_gives_the_same_bits() -> None:
    rows, weight, _ = factors(torch.float32, biased=False)
    assert torch.equal(linear(rows, weight), linear(rows, weight))


def test_frozen_weight_costs_no_product_in_the_backward_pass() -> None:
    rows, weight, _ = factors(torch.float32, biased=False)
    weight.requires_grad_(False)
    with Seen() as seen:
        linear(rows, weight).sum().backward()
    assert seen.products == 2
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_take_the_usual_way(dtype: torch.dtype) -> None:
    rows, weight, bias = factors(dtype, biased=True)
    with Seen() as seen:
        assert torch.equal(linear(rows, weight, bias), functional.linear(rows, weight, bias))
    assert seen.products == 0


def test_product_without_rows_has_none() -> None:
    assert linear(torch.zeros(0, 29), torch.zeros(41, 29)).shape == (0, 41)
