"""The SDK in a few lines: cost a recipe, submit it, follow it, read the scores.

Usage: python examples/sdk.py RECIPE [DATA_DIR]     (after `longhaul up`)
"""

import sys
from pathlib import Path

from longhaul.evaluation.v1.evaluation_pb2 import GetScoreCurveRequest
from longhaul_client import Client, PipelineWatch, read_recipe, submit

recipe = read_recipe(Path(sys.argv[1]))
with Client.local(Path(sys.argv[2]) if len(sys.argv) > 2 else None) as client:
    plan = client.plan(recipe)
    print(f"{plan.parameters:,} parameters, {plan.tokens:,} tokens, {plan.gpu_hours:.3f} GPU-hours")
    pipeline = submit(client, recipe)
    watch = PipelineWatch(client, pipeline)
    for state in watch:
        if state.run is not None and state.run.status.step:
            print(f"step {state.run.status.step}: loss {state.run.status.loss:.4f}")
    for point in client.evaluations.GetScoreCurve(GetScoreCurveRequest(training_run=pipeline.run)).points:
        for score in point.scores:
            print(f"step {point.step}: {score.task} {score.metric} {score.value:.4f} ± {score.standard_error:.4f}")
sys.exit(0 if watch.state.succeeded else 1)
