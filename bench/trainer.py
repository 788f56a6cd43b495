"""The trainer's step on a CPU against transformers' LlamaForCausalLM with torch.compile in a plain loop.

Same shape, same batch, float32, one thread; each side runs in a process of its own, turn by turn, and the median of
three runs counts. Speed is tokens a second over the steps after warm-up, memory the most that the process held resident
while it made steps, less what it held before the model was built.

Usage: python bench/trainer.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

SHAPE = {"vocabulary_size": 4096, "hidden_size": 256, "layers": 6, "heads": 8, "kv_heads": 4, "ffn_size": 704}
LENGTH, BATCH, MICRO, WARM_UP, STEPS, REPEATS = 256, 8, 4, 3, 12, 3
SPEED_TARGET, MEMORY_TARGET = 1.15, 1.0


def make_batch() -> Any:
    """Packed documents, as both sides get them: one document a row, so that the peer needs no mask of ours."""
    import numpy as np
    from longhaul_trainer.data.samples import Batch

    tokens = np.random.default_rng(0).integers(0, SHAPE["vocabulary_size"], (BATCH, LENGTH + 1))
    positions = np.tile(np.arange(LENGTH), (BATCH, 1))
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions)


def ours() -> tuple[Any, Any]:
    import torch
    from longhaul_core.recipe import TrainerConfig
    from longhaul_trainer.loop.step import Stepper
    from longhaul_trainer.model import DecoderShape
    from longhaul_trainer.optimizer.update import Update
    from longhaul_trainer.parallel.grid import make_grid
    from longhaul_trainer.parallel.group import open_group
    from longhaul_trainer.parallel.sharding import build_model

    torch.set_num_threads(1)
    config = TrainerConfig.model_validate(
        {
            "model": SHAPE,
            "data": {"sequence_length": LENGTH, "global_batch_size": BATCH, "micro_batch_size": MICRO},
            "runtime": {"compile": True, "deterministic": False},
        }
    )
    shape = DecoderShape.resolve(config, SHAPE["vocabulary_size"])
    group = open_group(0, 1, torch.device("cpu"))
    grid = make_grid(group, config.layout, tied=True)
    built = build_model(shape, config, grid)
    stepper = Stepper(built, Update(built.model, config.optimizer), config, grid)
    batch = make_batch()

    def step(number: int) -> float:
        measured = stepper.measure(batch, [])
        stepper.apply(measured, number)
        return measured.loss

    return step, None


def peer() -> tuple[Any, Any]:
    import torch
    from longhaul_trainer.model import DecoderShape
    from longhaul_trainer.model.huggingface import huggingface_config
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    shape = DecoderShape(**SHAPE, context_length=LENGTH, rope_theta=50_000.0)
    model = LlamaForCausalLM(LlamaConfig.from_dict(huggingface_config(shape, eos_id=0, dtype="float32")))
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    batch = make_batch()
    tokens, labels = torch.from_numpy(batch.tokens), torch.from_numpy(batch.labels)

    def step(_: int) -> float:
        total = 0.0
        for begin in range(0, BATCH, MICRO):
            rows = slice(begin, begin + MICRO)
            logits = compiled(input_ids=tokens[rows], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[rows].flatten()) * MICRO / BATCH
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step, None


def run(side: str) -> None:
    """One side, in this process; prints what it measured."""
    import psutil
    import torch  # noqa: F401

    process = psutil.Process()
    before = process.memory_info().rss
    step, _ = {"ours": ours, "peer": peer}[side]()
    for number in range(1, WARM_UP + 1):
        step(number)
    most, began = 0, time.process_time()
    for number in range(WARM_UP + 1, WARM_UP + STEPS + 1):
        loss = step(number)
        most = max(most, process.memory_info().rss)
    seconds = time.process_time() - began
    tokens = STEPS * BATCH * LENGTH / seconds
    print(json.dumps({"tokens": tokens, "memory": most - before, "loss": loss}))
    sys.stdout.flush()
    os._exit(0)


def measure(side: str) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, __file__, side], capture_output=True, text=True, env=environment, check=False
    )
    if answer.returncode:
        sys.exit(f"{side} failed:\n{answer.stderr}")
    found: dict[str, float] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    if sys.argv[1:]:
        run(sys.argv[1])
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(REPEATS):
        for side, found in runs.items():
            found.append(measure(side))
    medians = {side: {k: statistics.median(r[k] for r in found) for k in found[0]} for side, found in runs.items()}
    met = 0
    for bench, key, scale, unit, target in (
        ("step speed", "tokens", 1.0, "tokens/s of CPU", SPEED_TARGET),
        ("step memory", "memory", 1e6, "MB", MEMORY_TARGET),
    ):
        mine, theirs = medians["ours"][key] / scale, medians["peer"][key] / scale
        ratio = mine / theirs if key == "tokens" else theirs / mine
        met += ratio >= target
        line = {"bench": bench, "ours": round(mine, 1), "peer": round(theirs, 1), "unit": unit}
        line |= {"peer_name": "transformers LlamaForCausalLM + torch.compile", "ratio": round(ratio, 3)}
        print(json.dumps({**line, "target": target, "met": bool(ratio >= target)}), flush=True)
    print(f"bench-trainer: {met} of 2 targets met")


if __name__ == "__main__":
    main()
