from __future__ import annotations

import pytest
import torch
from longhaul_core.recipe import OptimizerConfig, TrainerConfig
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.optimizer.adamw import make_adamw
from longhaul_trainer.optimizer.gradients import Gradient, clip_factor, scale, squared_norm
from longhaul_trainer.optimizer.schedule import learning_rate


def config(steps: int, warmup: int, decay: float, minimum: float = 0.0) -> TrainerConfig:
    schedule = {"warmup_steps": warmup, "decay_fraction": decay, "minimum_ratio": minimum}
    return TrainerConfig.model_validate({"steps": steps, "optimizer": {"learning_rate": 1.0}, "schedule": schedule})


def test_schedule_warms_up_stays_and_decays_to_its_minimum() -> None:
    rates = [learning_rate(config(100, 10, 0.2, 0.1), step) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1 - 0.9 * step / 20 for step in range(1, 21)])


@pytest.mark.parametrize(("warmup", "decay", "wanted"), [(0, 0.0, [1.0] * 4), (0, 1.0, [0.75, 0.5, 0.25, 0.0])])
def test_schedule_without_warmup_or_plateau(warmup: int, decay: float, wanted: list[float]) -> None:
    assert [learning_rate(config(4, warmup, decay), step) for step in range(1, 5)] == pytest.approx(wanted)


@pytest.mark.parametrize("tied", [True, False])
def test_adamw_decays_matrices_but_neither_norms_nor_the_embedding(tied: bool) -> None:
    model = Decoder(DecoderShape(16, 8, 1, 2, 1, 8, 8, tied_embeddings=tied))
    decayed, others = make_adamw(list(model.named_parameters()), OptimizerConfig(weight_decay=0.3)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    undecayed = {names[id(parameter)] for parameter in others["params"]}
    assert others["weight_decay"] == 0
    assert decayed["weight_decay"] == 0.3
    assert undecayed == {
        "embed_tokens.weight",
        "layers.0.input_layernorm.weight",
        "layers.0.post_attention_layernorm.weight",
        "norm.weight",
    }
    assert ("lm_head.weight" in names.values()) is not tied


def test_gradients_are_measured_and_scaled_like_torch_does() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n, 3, generator=generator)) for n in (4, 7)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gradients = [Gradient(parameter.grad.clone(), 1) for parameter in parameters if parameter.grad is not None]
    norm = squared_norm(gradients) ** 0.5
    scale(gradients, clip_factor(norm, 0.5))
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(parameters, 0.5)), rel=1e-6)
    for ours, parameter in zip(gradients, parameters, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(ours.local, parameter.grad)


def test_gradients_below_the_limit_are_left_alone() -> None:
    assert clip_factor(0.4, 0.5) == 1.0
    assert squared_norm([]) == 0.0
