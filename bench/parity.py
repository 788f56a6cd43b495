"""Whether training is right: the trainer against a plain transformers + AdamW loop on the demo's corpus.

Three seeds of the demo's model, 100 steps each, from the same initial weights on the same batches, one thread. Compared
are loss and gradient norm (before clipping) at every step, and the loss at the end with the spread over seeds.

Training amplifies rounding: two right programs in float32 drift apart, and the plain loop moves further from itself in
float64 than any small target allows. So what the trainer computes is held against the plain loop in float64, where
rounding is out of the way, and float32 against what rounding does to the plain loop itself. transformers' norms compute
in float32 whatever the model's precision; in float64 torch's own take their place.

Usage: python bench/parity.py [SEEDS] [STEPS]
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fastwarc.warc import ArchiveIterator, WarcRecordType
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.model.huggingface import huggingface_config
from longhaul_trainer.optimizer.schedule import learning_rate
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.grid import Grid, make_grid
from longhaul_trainer.parallel.group import open_group
from longhaul_trainer.parallel.sharding import build_model
from resiliparse.extract.html2text import extract_plain_text
from tokenizers import ByteLevelBPETokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

DEMO = Path(__file__).resolve().parents[1] / "examples" / "python-docs"
LAST_STEPS = 10
RELATIVE_TARGET = 1e-4
EOS = 0

Curve = list[tuple[float, float]]
"""Loss and gradient norm of each step."""


def demo_config(seed: int, steps: int) -> TrainerConfig:
    """The demo's model and training, shortened."""
    recipe = yaml.safe_load((DEMO / "recipe.yaml").read_text())
    training = {name: recipe["training"][name] for name in ("optimizer", "schedule", "data", "runtime")}
    return TrainerConfig.model_validate({**training, "model": recipe["model"], "steps": steps, "seed": seed})


def demo_tokens(vocabulary_size: int) -> np.ndarray:
    """The pages of the crawl as one stream, each page ended by a token of its own."""
    texts = list(_pages())
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary_size, special_tokens=["<|end|>"], show_progress=False)
    encoded = tokenizer.encode_batch(texts)
    return np.concatenate([np.array([*page.ids, EOS]) for page in encoded])


def _pages() -> Iterator[str]:
    with (DEMO / "python-docs.warc.gz").open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
            kind = record.http_content_type or ""
            if record.http_headers.status_code == 200 and "html" in kind:
                text = extract_plain_text(record.reader.read().decode("utf-8", "replace"), main_content=True)
                if len(text) > 500:
                    yield text


def make_batches(stream: np.ndarray, config: TrainerConfig) -> list[Batch]:
    """Rows of the stream in an order of the seed; positions start again after each page's end."""
    length, size = config.data.sequence_length, config.data.global_batch_size
    rows = (len(stream) - 1) // length
    chosen = np.random.default_rng(config.seed).permutation(rows)[: config.steps * size]
    assert len(chosen) == config.steps * size, f"{rows} rows are too few for {config.steps} steps"
    place = np.arange(length)
    batches = []
    for numbers in chosen.reshape(config.steps, size):
        tokens = np.stack([stream[n * length : (n + 1) * length + 1] for n in numbers]).astype(np.int64)
        starts = np.concatenate([np.ones((size, 1), bool), tokens[:, :-2] == EOS], axis=1)
        positions = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
        batches.append(Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions))
    return batches


def ours(
    config: TrainerConfig, grid: Grid, batches: list[Batch], start: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Curve]:
    """Initial weights, then loss and gradient norm of each step, in torch's default precision."""
    built = build_model(DecoderShape.resolve(config, config.model.vocabulary_size), config, grid)
    if start is not None:
        built.model.load_state_dict(start, strict=False)
    initial = {name: parameter.detach().clone() for name, parameter in built.model.named_parameters()}
    stepper = Stepper(built, Update(built.model, config.optimizer), config, grid)
    found = []
    for step, batch in enumerate(batches, start=1):
        measured = stepper.measure(batch, [])
        stepper.apply(measured, step)
        found.append((measured.loss, measured.gradient_norm))
    return initial, found


def plain(config: TrainerConfig, initial: dict[str, Any], batches: list[Batch]) -> Curve:
    """By the book: one batch a step, transformers' model, torch's AdamW and clipping."""
    shape = DecoderShape.resolve(config, config.model.vocabulary_size)
    model = LlamaForCausalLM(LlamaConfig.from_dict(huggingface_config(shape, eos_id=EOS, dtype="float32")))
    model.load_state_dict({f"model.{name}": value for name, value in initial.items()}, strict=False)
    if torch.get_default_dtype() is torch.float64:
        lift_norms(model)
    named, given = dict(model.named_parameters()), config.optimizer
    decayed = [p for name, p in named.items() if p.dim() > 1 and "embed" not in name]
    others = [p for name, p in named.items() if p.dim() == 1 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": given.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (given.beta1, given.beta2)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=given.epsilon, foreach=False, fused=False)
    causal = torch.ones(config.data.sequence_length, config.data.sequence_length, dtype=torch.bool).tril()
    found = []
    for step, batch in enumerate(batches, start=1):
        tokens, labels, positions = (torch.from_numpy(a) for a in (batch.tokens, batch.labels, batch.positions))
        document = (positions == 0).cumsum(1)
        allowed = (document[:, :, None] == document[:, None, :]) & causal
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf")).unsqueeze(1)
        logits = model(input_ids=tokens, position_ids=positions, attention_mask=mask).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), given.gradient_clip))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.item(), norm))
    return found


def lift_norms(model: torch.nn.Module) -> None:
    """Has the norms compute in the precision of their input."""
    for norm in (module for module in model.modules() if isinstance(module, LlamaRMSNorm)):
        norm.forward = functools.partial(_normalise, norm)


def _normalise(norm: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def main() -> None:
    seeds, steps = (int(text) for text in (*sys.argv[1:], *("3", "100")[len(sys.argv) - 1 :]))
    torch.set_num_threads(1)
    grid = make_grid(open_group(0, 1, torch.device("cpu")), demo_config(0, steps).layout, tied=True)
    vocabulary = yaml.safe_load((DEMO / "recipe.yaml").read_text())["tokenizer"]["vocabulary_size"]
    stream = demo_tokens(vocabulary)
    found: dict[str, list[Curve]] = {name: [] for name in ("ours", "plain", "ours float64", "plain float64")}
    for seed in range(seeds):
        config = demo_config(seed, steps)
        config = config.model_copy(update={"model": config.model.model_copy(update={"vocabulary_size": vocabulary})})
        batches = make_batches(stream, config)
        initial, mine = ours(config, grid, batches)
        found["ours"].append(mine)
        found["plain"].append(plain(config, initial, batches))
        exact = {name: value.double() for name, value in initial.items()}
        torch.set_default_dtype(torch.float64)
        found["ours float64"].append(ours(config, grid, batches, exact)[1])
        found["plain float64"].append(plain(config, exact, batches))
        torch.set_default_dtype(torch.float32)
    rows = []
    for place, name in enumerate(("loss", "gradient norm")):
        noise = max(differences(found["plain"], found["plain float64"], place))
        rows.append(compare(found["ours float64"], found["plain float64"], place, f"{name} in float64", noise))
        rows.append(compare(found["ours"], found["plain"], place, f"{name} in float32", noise))
    rows.append(compare_ends(found))
    for row in rows:
        print(json.dumps(row), flush=True)
    print(f"bench-parity: {sum(bool(row['met']) for row in rows)} of {len(rows)} targets met")


def compare(mine: list[Curve], theirs: list[Curve], place: int, name: str, noise: float) -> dict[str, Any]:
    """Worst relative difference of ours and the plain loop; beside it what rounding does to the plain loop itself.

    In float32 no closer agreement is asked for than the plain loop has with itself.
    """
    apart = differences(mine, theirs, place)
    target = RELATIVE_TARGET if "float64" in name else max(RELATIVE_TARGET, noise)
    beyond = sum(one > RELATIVE_TARGET for one in apart)
    return {
        "bench": f"{name}, worst of {len(apart)} steps of all seeds, {beyond} beyond {RELATIVE_TARGET:g}",
        "ours": max(apart),
        "peer": noise,
        "peer_name": "the plain loop in float32 against itself in float64",
        "unit": "relative difference to transformers + AdamW",
        "ratio": max(apart),
        "target": target,
        "met": max(apart) <= target,
    }


def differences(one: list[Curve], other: list[Curve], place: int) -> list[float]:
    """Relative difference at each step of each seed."""
    pairs = [pair for curves in zip(one, other, strict=True) for pair in zip(*curves, strict=True)]
    return [abs(a[place] - b[place]) / b[place] for a, b in pairs]


def compare_ends(found: dict[str, list[Curve]]) -> dict[str, Any]:
    """Mean loss of the last steps, and whether it differs by more than the seeds do."""
    ends = {
        name: [statistics.mean(loss for loss, _ in curve[-LAST_STEPS:]) for curve in found[name]]
        for name in ("ours", "plain")
    }
    means = {name: statistics.mean(values) for name, values in ends.items()}
    difference, noise = abs(means["ours"] - means["plain"]), statistics.stdev(ends["plain"])
    return {
        "bench": f"loss of the last {LAST_STEPS} steps",
        "ours": means["ours"],
        "peer": means["plain"],
        "peer_name": f"transformers + AdamW; deviation over seeds {noise:.4f}",
        "unit": "nats a token",
        "ratio": difference / noise,
        "target": 1.0,
        "met": difference <= noise,
    }


if __name__ == "__main__":
    main()
