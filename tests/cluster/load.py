"""A client at work, run in a pod: calls every service over and over, and at SIGTERM tells how many calls failed.

`python load.py HOST_PATTERN`, where `{}` stands for the service; token and roots come from the environment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul.corpus.v1 import corpus_build_pb2, corpus_build_pb2_grpc
from longhaul.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from longhaul.gpuhealth.v1 import node_health_pb2, node_health_pb2_grpc
from longhaul.ingest.v1 import ingestion_pb2, ingestion_pb2_grpc
from longhaul.training.v1 import training_run_pb2, training_run_pb2_grpc
from longhaul_core.rpc.client import connect
from longhaul_core.settings import GRPC_PORTS

PARENT = "projects/default"
PAUSE_SECONDS = 0.05


async def main(pattern: str) -> None:
    """Call until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    roots, token = Path(os.environ["LONGHAUL_TLS_CA"]), os.environ.get("LONGHAUL_API_TOKEN")
    channels = {
        service: connect(f"{pattern.format(service)}:{port}", token=token, tls_ca=roots)
        for service, port in GRPC_PORTS.items()
    }
    made: Counter[str] = Counter()
    failed = []
    print("at work", flush=True)
    for number in itertools.count():
        if stop.is_set():
            break
        for name, (method, request) in _calls(channels, number).items():
            made[name] += 1
            try:
                await method(request)
            except grpc.aio.AioRpcError as error:
                failed.append(f"{name}: {error.code().name}: {error.details()}")
                print("failed:", failed[-1], flush=True)
        await asyncio.sleep(PAUSE_SECONDS)
    print(json.dumps({"made": made, "failed": failed}), flush=True)
    for channel in channels.values():
        await channel.close()


def _calls(channels: dict[str, grpc.aio.Channel], number: int) -> dict[str, tuple[Any, Any]]:
    """A read of each service, and a write."""
    ingest = ingestion_pb2_grpc.IngestionServiceStub(channels["ingest"])
    corpus = corpus_build_pb2_grpc.CorpusBuildServiceStub(channels["corpus"])
    training = training_run_pb2_grpc.TrainingRunServiceStub(channels["training"])
    store = checkpoint_pb2_grpc.CheckpointServiceStub(channels["checkpoint"])
    evaluation = evaluation_pb2_grpc.EvaluationServiceStub(channels["evaluation"])
    nodes = node_health_pb2_grpc.NodeHealthServiceStub(channels["gpuhealth"])
    run = f"{PARENT}/trainingRuns/{os.environ['HOSTNAME_OF_POD']}-{number}"
    begin = checkpoint_pb2.BeginCheckpointRequest(training_run=run, step=1, epoch=1, world_size=1)
    return {
        "ingest": (ingest.ListIngestions, ingestion_pb2.ListIngestionsRequest(parent=PARENT, page_size=1)),
        "corpus": (corpus.ListCorpusBuilds, corpus_build_pb2.ListCorpusBuildsRequest(parent=PARENT, page_size=1)),
        "training": (training.ListTrainingRuns, training_run_pb2.ListTrainingRunsRequest(parent=PARENT, page_size=1)),
        "checkpoint": (store.BeginCheckpoint, begin),
        "evaluation": (evaluation.ListEvaluations, evaluation_pb2.ListEvaluationsRequest(parent=PARENT, page_size=1)),
        "gpuhealth": (nodes.ListNodeHealth, node_health_pb2.ListNodeHealthRequest(page_size=1)),
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
