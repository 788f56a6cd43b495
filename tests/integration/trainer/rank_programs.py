"""What the ranks of a numerics test do, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from longhaul_core.errors import LonghaulError
from longhaul_core.recipe import TrainerConfig
from longhaul_trainer.data.samples import Batch
from longhaul_trainer.loop import step
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.model import DecoderShape, decoder
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel import sharding
from longhaul_trainer.parallel.gate import check_initial_parameters, check_replicas
from longhaul_trainer.parallel.grid import Grid, make_grid
from longhaul_trainer.parallel.group import RankGroup, open_group
from longhaul_trainer.parallel.sharding import Built, build_model
from longhaul_trainer.parallel.slices import local_box
from torch import Tensor
from torch.distributed.tensor import DTensor

Program = Callable[..., dict[str, Any]]
# What takes long to import; the server does not find this module itself.
CHECKED_STEP = 2
"""After it the model is validated and its replicas are compared, as a run does now and then; it changes nothing."""
PRELOADED = ["numpy", "torch.distributed.tensor", "longhaul_trainer.worker.session"]


def run_ranks(program: Program, ranks: int, *arguments: Any) -> list[dict[str, Any]]:
    """Runs the program on every rank and returns what each returned."""
    # From a server without threads: what this process has started by now, Ray's and gRPC's, does not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            context.Process(target=_enter, args=(program, rank, ranks, address, listener, writing, arguments))
            for rank, (_, writing) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        try:
            answers = [reading.recv() if reading.poll(280) else {"error": "silent"} for reading, _ in pipes]
        finally:
            for process in processes:
                process.join(1)
                process.kill()
    return answers


def _enter(
    program: Program, rank: int, ranks: int, address: str, listener: socket.socket, pipe: Any, arguments: Any
) -> None:
    torch.set_num_threads(1)
    try:
        descriptor = listener.detach() if rank == 0 else None
        group = open_group(rank, ranks, torch.device("cpu"), rendezvous=address, listen_descriptor=descriptor)
        pipe.send(program(group, *arguments))
    except Exception:
        pipe.send({"error": traceback.format_exc()})


def whole(tensor: Tensor) -> np.ndarray:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().numpy().copy()


def build(group: RankGroup, shape: DecoderShape, config: TrainerConfig) -> tuple[Grid, Built]:
    grid = make_grid(group, config.layout, tied=shape.tied_embeddings)
    return grid, build_model(shape, config, grid)


def initial_values(group: RankGroup, shape: DecoderShape, config: TrainerConfig) -> dict[str, Any]:
    """Every parameter before the first step."""
    _, built = build(group, shape, config)
    check_initial_parameters(built.model, group)
    return {name: whole(parameter) for name, parameter in built.model.named_parameters()}


def merge(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of all ranks: what several hold must be the same."""
    whole_answer: dict[str, Any] = {"losses": answers[0]["losses"], "norms": answers[0]["norms"]}
    for answer in answers:
        assert answer["losses"] == whole_answer["losses"]
        assert answer["norms"] == whole_answer["norms"]
    for kind in ("gradients", "parameters"):
        held: dict[str, np.ndarray] = {}
        for answer in answers:
            for name, value in answer[kind].items():
                assert np.array_equal(held.setdefault(name, value), value), f"{kind} of {name} differ between ranks"
        whole_answer[kind] = held
    return whole_answer


def merge_values(answers: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    held: dict[str, np.ndarray] = {}
    for answer in answers:
        for name, value in answer.items():
            assert np.array_equal(held.setdefault(name, value), value), name
    return held


def plant(defect: str) -> None:
    """Breaks this process in one of the ways that distributed trainers have been broken."""
    if defect == "averaged over ranks":
        sharding.sum_gradients = lambda model: None
    elif defect == "norm of one stage":
        measured = step.squared_norm
        step.squared_norm = lambda gradients: measured(gradients) * (torch.distributed.get_rank() == 0)
    elif defect == "tied head not summed":
        step.sum_tied = lambda model, grid: None
    elif defect == "mean of means":
        summed = step.summed_loss

        def mean(logits: Tensor, labels: Tensor, *options: Any) -> Tensor:
            return summed(logits, labels, *options) * 10 / (labels != -100).sum().clamp(min=1)

        step.summed_loss = mean
    elif defect == "context positions":
        frame = decoder.make_frame
        decoder.make_frame = lambda shape, rotary, positions, own, gather, **options: frame(
            shape, rotary, positions, torch.arange(len(own)) if own is not None else None, gather, **options
        )


def train(
    group: RankGroup,
    shape: DecoderShape,
    config: TrainerConfig,
    batches: list[Batch],
    double: bool = False,
    defect: str = "",
    by_block: bool = False,
) -> dict[str, Any]:
    """Losses, gradient norms, first gradients and final parameters of a few steps.

    `by_block`: each block is sharded by itself, as those of a larger model are.
    """
    plant(defect)
    if by_block:
        sharding._SMALL_UNIT_PARAMETERS = 0
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    grid, built = build(group, shape, config)
    model = built.model
    if config.model.moe.experts:
        for layer, router in model.routers():
            router.load.copy_(torch.linspace(0.5, 1.5, len(router.load)).roll(layer) / len(router.load))
    stepper = Stepper(built, Update(model, config.optimizer), config, grid)
    found: dict[str, Any] = {"losses": [], "norms": []}
    for number, batch in enumerate(batches, start=1):
        local = len(batch.tokens) // grid.data_ranks
        mine = batch.rows(grid.data_rank * local, (grid.data_rank + 1) * local)
        measured = stepper.measure(mine, [])
        if number == 1:
            gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
            found["gradients"] = {name: value / measured.valid_tokens for name, value in gradients.items()}
        stepper.apply(measured, number)
        found["losses"].append(measured.loss)
        found["norms"].append(measured.gradient_norm)
        if number == CHECKED_STEP and not defect:
            sharded = [isinstance(parameter, DTensor) for parameter in model.parameters()]
            stepper.evaluate(mine, config.data.micro_batch_size)
            assert [isinstance(parameter, DTensor) for parameter in model.parameters()] == sharded
            check_replicas(model, group)
    found["parameters"] = {name: whole(parameter) for name, parameter in model.named_parameters()}
    return found


def gate(group: RankGroup, shape: DecoderShape, config: TrainerConfig, defect: str) -> dict[str, Any]:
    """What the gate says of a model with a planted defect."""
    grid, built = build(group, shape, config)
    model = built.model
    with torch.no_grad():
        if defect == "same seed":
            for parameter in model.parameters():
                torch.manual_seed(0)
                local_box(parameter).local.normal_()
        elif defect == "buffer":
            model.rotary.cosine[0, 0] += float(group.rank)
        elif defect == "replica":
            name = "norm.weight" if grid.layout.pipeline_parallel == 1 else "embed_tokens.weight"
            local_box(model.get_parameter(name)).local.add_(
                float(grid.rank("tensor") + grid.rank("replica") + grid.rank("pipe"))
            )
    later = ""
    try:
        check_replicas(model, group)
    except LonghaulError as error:
        later = error.reason
    try:
        check_initial_parameters(model, group)
    except LonghaulError as error:
        return {"reason": error.reason, "later": later, **error.metadata}
    return {"reason": "", "later": later}
