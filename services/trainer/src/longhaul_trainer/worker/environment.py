"""What a run was computed with, recorded with each checkpoint so that it can be rebuilt. No secret is in it."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from blake3 import blake3

_GIT_SECONDS = 5.0
_PACKAGES = ("torch", "numpy", "safetensors", "longhaul-trainer")


@functools.cache
def describe_environment() -> dict[str, str]:
    """Versions of all that moves a bit: interpreter, packages, kernels, driver; the code's commit and changes."""
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages_digest": _packages_digest(),
        **{package: version for package in _PACKAGES if (version := _version(package))},
        **_accelerator(),
        **_source(),
    }
    return {name: value for name, value in found.items() if value}


def _accelerator() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        "driver": _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
    }


def _source() -> dict[str, str]:
    """Commit of the checkout and the digest of what was changed in it; nothing in an image without one."""
    folder = str(Path(__file__).parent)
    commit = _run("git", "-C", folder, "rev-parse", "HEAD")
    changes = _run("git", "-C", folder, "diff", "HEAD") if commit else ""
    return {"commit": commit, "uncommitted_digest": blake3(changes.encode()).hexdigest(length=16) if changes else ""}


def _packages_digest() -> str:
    """Of the sorted list of all installed packages with their versions."""
    folders = [Path(place) for place in sys.path if Path(place).is_dir()]
    names = {found.name.lower() for folder in folders for found in folder.glob("*.dist-info")}
    return blake3("\n".join(sorted(names)).encode()).hexdigest(length=16)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
