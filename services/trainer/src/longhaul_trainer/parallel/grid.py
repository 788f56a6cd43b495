"""The ranks as a grid: one DeviceMesh whose dimensions are the kinds of parallelism that the layout uses.

Order, from the outside: pipe, replica, outer, expert, context, tensor. The data-parallel ranks are replica × outer ×
expert; a model is sharded over outer × expert × context, experts over expert first and over outer then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from longhaul_core.recipe import LayoutConfig
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from longhaul_trainer.parallel.group import RankGroup

_SHARDED = ("outer", "expert", "context")


@dataclass(frozen=True, slots=True)
class Grid:
    """Where this rank stands.

    ``layout`` has every degree set; ``ends``: first and last pipeline rank of this column.

    ``tied``: the output projection is the embedding.
    """

    group: RankGroup
    layout: LayoutConfig
    mesh: DeviceMesh
    shard_mesh: DeviceMesh
    expert_shard_mesh: DeviceMesh
    ends: ProcessGroup | None
    tied: bool = False

    def size(self, dimension: str) -> int:
        """Ranks along a dimension; 1 where the layout has none."""
        return self.mesh[dimension].size() if dimension in (self.mesh.mesh_dim_names or ()) else 1

    def rank(self, dimension: str) -> int:
        """This rank along a dimension."""
        return self.mesh.get_local_rank(dimension) if self.size(dimension) > 1 else 0

    @property
    def data_rank(self) -> int:
        """Which part of the global batch this rank reads."""
        outer = self.rank("replica") * self.size("outer") + self.rank("outer")
        return outer * self.size("expert") + self.rank("expert")

    @property
    def data_ranks(self) -> int:
        """Parts of the global batch."""
        return self.layout.data_parallel

    @property
    def pipelined(self) -> bool:
        """Whether the layers are spread over ranks."""
        return self.layout.pipeline_parallel > 1

    @property
    def holds_tied_end(self) -> bool:
        """Whether this rank holds a tied embedding that another pipeline rank holds too."""
        return self.tied and self.pipelined and self.rank("pipe") in (0, self.layout.pipeline_parallel - 1)

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.rank("pipe") == self.layout.pipeline_parallel - 1

    @property
    def counts_loss(self) -> bool:
        """Whether this rank's loss is the one to be summed; tensor-parallel ranks compute the same one."""
        return self.is_last_stage and self.rank("tensor") == 0


def make_grid(group: RankGroup, layout: LayoutConfig, *, tied: bool) -> Grid:
    """Lays out the ranks of a group that is open.

    Raises:
        ValueError: the degrees do not fill the group.
    """
    layout = layout.resolve(group.size)
    degrees = {
        "pipe": layout.pipeline_parallel,
        "replica": layout.replicas,
        "outer": layout.data_parallel // layout.replicas // layout.expert_parallel,
        "expert": layout.expert_parallel,
        "context": layout.context_parallel,
        "tensor": layout.tensor_parallel,
    }
    used = {name: degree for name, degree in degrees.items() if degree > 1 or name == "outer"}
    mesh = init_device_mesh(group.device.type, tuple(used.values()), mesh_dim_names=tuple(used))
    return Grid(group, layout, mesh, _shard_mesh(mesh, used), mesh["outer"], _ends(mesh, used), tied)


def _shard_mesh(mesh: DeviceMesh, used: dict[str, int]) -> DeviceMesh:
    """One dimension for all that a model is sharded over; before it, where there are any, the replicas."""
    sharded = tuple(name for name in _SHARDED if name in used)
    name = "outer"
    if len(sharded) > 1:
        mesh[sharded]._flatten("shard")
        name = "shard"
    return mesh["replica", name] if "replica" in used else mesh[name]


def _ends(mesh: DeviceMesh, used: dict[str, int]) -> ProcessGroup | None:
    """Group of the first and the last pipeline rank of each column; every rank takes part in making all of them."""
    if "pipe" not in used:
        return None
    mine = None
    columns = mesh.mesh.reshape(used["pipe"], -1)
    for column in range(columns.shape[1]):
        ranks = [int(columns[0, column]), int(columns[-1, column])]
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = group
    return mine
