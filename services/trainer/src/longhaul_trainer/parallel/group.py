"""The ranks of one epoch and the few numbers that they sum."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from longhaul_core.net import is_loopback, split_address
from torch import Tensor
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

COLLECTIVE_TIMEOUT = timedelta(seconds=600)
_STORE_TIMEOUT = timedelta(seconds=120)
_ANSWER_TIMEOUT = timedelta(seconds=20)
"""For what a rank asks of one that was there a moment ago: it answers at once, or it is gone."""


@dataclass(frozen=True, slots=True)
class RankGroup:
    """This process among the ranks of one epoch."""

    rank: int
    size: int
    device: torch.device
    store: Store = field(default_factory=HashStore)
    """A connection of its own to the epoch's key-value store, for use in one other thread."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums each value over the ranks, in float64; the same bits on every rank."""
        if self.size == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(vector)
        return [float(value) for value in vector.tolist()]

    def gather_documents(self, document: bytes) -> list[bytes]:
        """Bytes of any length from each rank, in rank order."""
        if self.size == 1:
            return [document]
        lengths = [int(length) for length in self._gather(torch.tensor([len(document)], device=self.device))]
        padded = document.ljust(max(lengths), b"\0")
        parts = self._gather(torch.frombuffer(bytearray(padded), dtype=torch.uint8).to(self.device))
        return [part.cpu().numpy().tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]

    def _gather(self, mine: Tensor) -> list[Tensor]:
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(theirs, mine)
        return theirs


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of a local rank; ``auto`` takes a GPU where there is one."""
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def open_group(
    rank: int, size: int, device: torch.device, *, rendezvous: str = "", listen_descriptor: int | None = None
) -> RankGroup:
    """Joins the other ranks through the epoch's rendezvous store.

    Args:
        rank: this process.
        size: ranks of the epoch.
        device: where tensors of the collectives live.
        rendezvous: host:port of the store.
        listen_descriptor: the store's listening socket, bound by the agent; given to rank 0 only.
    """
    store: Store = HashStore() if size == 1 else _open_store(rendezvous, listen_descriptor)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    if size == 1:
        return RankGroup(rank, size, device)
    # Now, while all are certainly there: a rank that connects later may find that rank 0 has failed.
    return RankGroup(rank, size, device, _connect(rendezvous, _ANSWER_TIMEOUT))


def _open_store(rendezvous: str, listen_descriptor: int | None) -> Store:
    host, port = split_address(rendezvous)
    if is_loopback(host):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if listen_descriptor is None:
        return _connect(rendezvous)
    return TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listen_descriptor, timeout=_STORE_TIMEOUT
    )


def _connect(rendezvous: str, timeout: timedelta = _STORE_TIMEOUT) -> Store:
    host, port = split_address(rendezvous)
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def digest_bytes(tensor: Tensor) -> bytes:
    """Contents of a tensor as bytes, for comparing it with other ranks'.

    Of a copy: memory that numpy has seen can't be resized any more, as FSDP does with what it gathers.
    """
    return tensor.detach().to("cpu", copy=True).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
