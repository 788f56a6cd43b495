"""The trainer's step on one NVIDIA GPU: share of the peak, tokens a second, memory, and where the time goes.

Random tokens, nothing is downloaded. Four sizes; against transformers' LlamaForCausalLM with torch.compile on the same
shape and batch, turn by turn, medians of three. FLOPs a token are 6·N_mm + 12·L·d·S, the output projection counted even
when tied; the share of the datasheet's dense bf16 peak stands beside that of a large matrix product measured here. A
torchtitan-style loop is compared where torchtitan is installed.

Without a GPU nothing is measured; `--rehearse` then walks the same way once with a tiny model on the CPU, not compiled.

Usage: python bench/gpu.py [--rehearse] [124m 350m 1.3b 3b]
"""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.loop.throughput import device_peak
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.model.huggingface import huggingface_config
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.grid import make_grid
from longhaul_trainer.parallel.group import RankGroup, choose_device, open_group
from longhaul_trainer.parallel.sharding import build_model

WARM_UP, STEPS, REPEATS = 5, 10, 3
GEMM_SIZE, REHEARSED_GEMM_SIZE = 8192, 64


@dataclass(frozen=True, slots=True)
class Case:
    """A size, its batch, and the least share of the peak that is wanted on an H200."""

    model: dict[str, Any]
    length: int
    batch: int
    micro: int
    target: float
    recomputation: str = "none"


def _model(hidden: int, layers: int, heads: int, ffn: int, vocabulary: int, kv_heads: int = 0) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads or heads,
        "ffn_size": ffn,
        "vocabulary_size": vocabulary,
    }


CASES = {
    "124m": Case(_model(768, 12, 12, 2048, 50_304), 1024, 64, 32, 0.42),
    "350m": Case(_model(1024, 24, 16, 2816, 50_304), 2048, 32, 16, 0.48),
    "1.3b": Case(_model(2048, 24, 16, 5504, 50_304), 2048, 16, 8, 0.52),
    "3b": Case(_model(2048, 36, 16, 11_008, 128_256, kv_heads=4), 4096, 4, 2, 0.52, "selective"),
}


REHEARSAL = Case(_model(32, 2, 4, 64, 128, kv_heads=2), 32, 4, 2, 0.0, "selective")


def random_batch(case: Case) -> Batch:
    """Full rows, one document each: the peer's best case."""
    tokens = torch.randint(0, case.model["vocabulary_size"], (case.batch, case.length + 1)).numpy()
    positions = torch.arange(case.length).expand(case.batch, -1).contiguous().numpy()
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions)


def ours(case: Case, group: RankGroup) -> tuple[Callable[[int], None], DecoderShape]:
    config = TrainerConfig.model_validate(
        {
            "model": case.model,
            "data": {
                "sequence_length": case.length,
                "global_batch_size": case.batch,
                "micro_batch_size": case.micro,
            },
            "runtime": {
                "device": group.device.type,
                "precision": "bfloat16",
                "compile": group.device.type == "cuda",
                "deterministic": False,
                "recomputation": case.recomputation,
                "attention": "portable",
            },
        }
    )
    shape = DecoderShape.resolve(config, case.model["vocabulary_size"])
    grid = make_grid(group, config.layout, tied=True)
    built = build_model(shape, config, grid)
    stepper = Stepper(built, Update(built.model, config.optimizer), config, grid)
    batch = random_batch(case)

    def step(number: int) -> None:
        stepper.apply(stepper.measure(batch, []), number)

    return step, shape


def peer(case: Case, device: torch.device, shape: DecoderShape) -> Callable[[int], None]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_dict(huggingface_config(shape, eos_id=0, dtype="float32"))
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).to(device)
    if case.recomputation != "none":
        model.gradient_checkpointing_enable()
    compiled = torch.compile(model) if device.type == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch = random_batch(case)
    tokens, labels = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.labels))

    def step(_: int) -> None:
        for begin in range(0, case.batch, case.micro):
            rows = slice(begin, begin + case.micro)
            with torch.autocast(device.type, torch.bfloat16):
                logits = compiled(input_ids=tokens[rows], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[rows].flatten())
            (loss * case.micro / case.batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def settle(device: torch.device) -> None:
    """Waits for all kernels."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(step: Callable[[int], None], device: torch.device) -> tuple[float, float]:
    """Seconds a step, median of the repeats, and the most bytes that were allocated."""
    warm_up, steps = (WARM_UP, STEPS) if device.type == "cuda" else (1, 1)
    for number in range(1, warm_up + 1):
        step(number)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(REPEATS):
        settle(device)
        began = time.perf_counter()
        for number in range(steps):
            step(warm_up + 1 + number)
        settle(device)
        found.append((time.perf_counter() - began) / steps)
    return statistics.median(found), float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else 0.0


def gemm_peak(device: torch.device) -> float:
    """FLOPs a second of one large bf16 product."""
    size = GEMM_SIZE if device.type == "cuda" else REHEARSED_GEMM_SIZE
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    settle(device)
    began = time.perf_counter()
    for _ in range(20):
        left @ right
    settle(device)
    return 20 * 2.0 * size**3 / (time.perf_counter() - began)


def components(step: Callable[[int], None], device: torch.device) -> dict[str, float]:
    """Share of the device's time by kind of kernel, of one step."""
    kind = torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profile:
        step(1)
        settle(device)
    kinds = {"matrix products": ("gemm", "cutlass", "nvjet"), "attention": ("flash", "fmha", "attention")}
    sums = dict.fromkeys([*kinds, "optimizer", "rest"], 0.0)
    for event in profile.key_averages():
        spent = float(event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total)
        name = event.key.lower()
        found = next((k for k, words in kinds.items() if any(word in name for word in words)), "rest")
        sums["optimizer" if "adam" in name or "multi_tensor" in name else found] += spent
    whole = sum(sums.values()) or 1.0
    return {kind: round(spent / whole, 3) for kind, spent in sums.items()}


def free() -> None:
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    names = [name for name in sys.argv[1:] if name != "--rehearse"] or list(CASES)
    cases = {name: CASES[name] for name in names}
    if "--rehearse" in sys.argv:
        cases = {"rehearsal on the CPU": REHEARSAL}
    elif not torch.cuda.is_available():
        sys.exit("bench-gpu: there is no NVIDIA GPU here; nothing was measured")
    device = choose_device("cpu" if "--rehearse" in sys.argv else "cuda", 0)
    group = open_group(0, 1, device)
    measured_peak, datasheet = gemm_peak(device), device_peak(device)
    print(json.dumps({"bench": "gemm", "ours": round(measured_peak / 1e12, 1), "unit": "TFLOP/s bf16"}), flush=True)
    met = 0
    for name, case in cases.items():
        step, shape = ours(case, group)
        seconds, memory = timed(step, device)
        shares = components(step, device)
        del step
        free()
        theirs, peer_memory = timed(peer(case, device, shape), device)
        free()
        tokens = case.batch * case.length
        flops = shape.flops_per_token(case.length) * tokens
        mfu = flops / seconds / datasheet if datasheet else None
        peer_mfu = flops / theirs / datasheet if datasheet else None
        met += mfu is not None and mfu >= case.target
        row = {
            "bench": f"train {name}",
            "ours": mfu and round(mfu, 4),
            "peer": peer_mfu and round(peer_mfu, 4),
            "peer_name": "transformers + torch.compile",
            "unit": "share of the dense bf16 peak",
            "ratio": round(theirs / seconds, 3),
            "target": case.target,
            "tokens_per_second": round(tokens / seconds),
            "peer_tokens_per_second": round(tokens / theirs),
            "share_of_measured_gemm": round(flops / seconds / measured_peak, 4),
            "memory_gb": round(memory / 1e9, 2),
            "peer_memory_gb": round(peer_memory / 1e9, 2),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "peak_flops": datasheet,
            "components": shares,
            "torchtitan": "installed" if importlib.util.find_spec("torchtitan") else "not installed",
        }
        print(json.dumps(row), flush=True)
    print(f"bench-gpu: {met} of {len(cases)} targets met")


if __name__ == "__main__":
    main()
