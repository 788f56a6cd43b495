"""What a task pod is told through its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from longhaul_core.settings import ENVIRONMENT_PREFIX
from pydantic_settings import BaseSettings, SettingsConfigDict


class TaskSettings(BaseSettings):
    """Arguments and places of one task; the arguments are JSON."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    task_arguments: str
    task_result_key: str
    object_store_url: str
    scratch_dir: Path
    node: str = ""
    gpus: int = 0
    log_level: str = "info"
    log_format: Literal["json", "console"] = "json"
