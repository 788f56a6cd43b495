"""Python SDK, recipes and the `longhaul` command.

The few names that most programs need: read a recipe, connect, submit, watch.
"""

from longhaul_client.connection import Connection, local_connection
from longhaul_client.pipeline import Pipeline, submit
from longhaul_client.recipes import Recipe, read_recipe
from longhaul_client.sdk import Client
from longhaul_client.watching import PipelineState, PipelineWatch

__all__ = [
    "Client",
    "Connection",
    "Pipeline",
    "PipelineState",
    "PipelineWatch",
    "Recipe",
    "local_connection",
    "read_recipe",
    "submit",
]
