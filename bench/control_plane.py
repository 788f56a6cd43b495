"""The real training service on a cluster in memory: `python bench/control_plane.py NODES GPUS LATENCY`.

Everything is the service's own but the cluster, whose calls take a given time, and the three services it watches, which
are answered here as they would answer when nothing is wrong.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul.corpus.v1 import corpus_build_pb2_grpc, token_set_pb2, token_set_pb2_grpc
from longhaul.gpuhealth.v1 import node_health_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.cluster.fake import FakeCluster
from longhaul_core.rpc.server import main
from longhaul_training import app
from longhaul_training.settings import TrainingSettings

TOKEN_SET = "projects/default/tokenSets/bench"
NODE_PREFIX = "node-"


class LateCluster(FakeCluster):
    """A cluster in memory whose writes and lists take as long as calls of a real API server."""

    latency_seconds = 0.0

    async def create_pod(self, spec: Any) -> Any:
        """See `Cluster`."""
        await asyncio.sleep(self.latency_seconds)
        return await super().create_pod(spec)

    async def delete_pod(self, *arguments: Any, **options: Any) -> None:
        """See `Cluster`."""
        await asyncio.sleep(self.latency_seconds)
        await super().delete_pod(*arguments, **options)


class Neighbours(
    token_set_pb2_grpc.TokenSetServiceServicer,
    corpus_build_pb2_grpc.CorpusBuildServiceServicer,
    node_health_pb2_grpc.NodeHealthServiceServicer,
    checkpoint_pb2_grpc.CheckpointServiceServicer,
):
    """Corpus, checkpoint and gpuhealth: one token set, no checkpoints, all nodes well."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def WatchTokenSets(self, request: Any, context: Any) -> Iterator[Any]:
        """The token set, then nothing."""
        found = token_set_pb2.TokenSet(manifest_key="key", digest="digest")
        found.metadata.name = TOKEN_SET
        yield token_set_pb2.WatchTokenSetsResponse(type=1, token_set=found, revision=1)
        yield from self._idle(context)

    def WatchCorpusBuilds(self, request: Any, context: Any) -> Iterator[Any]:
        """Nothing."""
        yield from self._idle(context)

    def WatchNodeHealth(self, request: Any, context: Any) -> Iterator[Any]:
        """Nothing."""
        yield from self._idle(context)

    def RegisterEpoch(self, request: Any, context: Any) -> Any:
        """Accepted."""
        return checkpoint_pb2.RegisterEpochResponse()

    def GetLatestCheckpoint(self, request: Any, context: Any) -> Any:
        """There is none."""
        context.abort(grpc.StatusCode.NOT_FOUND, "no checkpoint")

    def _idle(self, context: Any) -> Iterator[Any]:
        while context.is_active() and not self._stop.wait(1.0):
            yield from ()


def serve_neighbours(address: str) -> grpc.Server:
    """Serves them at an address."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    neighbours = Neighbours()
    token_set_pb2_grpc.add_TokenSetServiceServicer_to_server(neighbours, server)
    corpus_build_pb2_grpc.add_CorpusBuildServiceServicer_to_server(neighbours, server)
    node_health_pb2_grpc.add_NodeHealthServiceServicer_to_server(neighbours, server)
    checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(neighbours, server)
    server.add_insecure_port(address)
    server.start()
    return server


def run(nodes: int, gpus: int, latency_seconds: float) -> None:
    """Runs the service until it is told to stop."""
    cluster = LateCluster(SystemClock())
    LateCluster.latency_seconds = latency_seconds
    for number in range(nodes):
        cluster.add_node(f"{NODE_PREFIX}{number:05d}", gpus=gpus)
    app.open_cluster = lambda url, clock=None: cluster
    main(TrainingSettings, app.build)


if __name__ == "__main__":
    settings = TrainingSettings()
    neighbours_server = serve_neighbours(settings.corpus_address)
    run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
