"""What a run was computed with, recorded with each checkpoint so that it can be rebuilt. No secret is in it.

The short form goes into the lineage; the whole (packages, variables, the code's uncommitted changes) is a part of the
checkpoint, which is the same at each save and so stored once.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch
from blake3 import blake3
from longhaul_core.digests import hash_file

ENVIRONMENT_FILE = "environment.json"
SCHEMA = "longhaul.environment/v1"
LARGEST_CHANGES = 1 << 20

_GIT_SECONDS = 5.0
_PACKAGES = ("torch", "numpy", "safetensors", "longhaul-trainer")
_IMAGE_LOCKS = (Path("/usr/share/longhaul/requirements.lock"), Path("/usr/share/longhaul/sbom.cdx.json"))
_VARIABLES = re.compile(
    r"(OMP|MKL|KMP|GLOO|NCCL|CUDA|CUBLAS|CUDNN|NVIDIA|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|ONEDNN|DNNL|LD|LONGHAUL|TRAINER)_"
    r"|(LANG|LC_ALL|TZ|PYTHONHASHSEED|LD_PRELOAD|LD_LIBRARY_PATH)$"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|ARGUMENTS|_PEM|ACCESS|AUTH|(^|_)KEY(_|$)")
_CREDENTIALS_IN_URL = re.compile(r"://[^/@\s]+@")


@functools.cache
def describe_environment(image: str = "") -> dict[str, str]:
    """Versions of all that moves a bit: image, lock, interpreter, packages, kernels, driver, commit and changes."""
    found = {
        "image": image,
        "lock_digest": _lock_digest(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages_digest": blake3("\n".join(_packages()).encode()).hexdigest(length=16),
        **{package: version for package in _PACKAGES if (version := _version(package))},
        **_accelerator(),
        **_source(),
    }
    return {name: value for name, value in found.items() if value}


@functools.cache
def environment_document(image: str = "") -> bytes:
    """The whole record as JSON; the same bytes at each call, so that it is stored once."""
    changes = _changes()
    document = {
        "schema": SCHEMA,
        "versions": describe_environment(image),
        "packages": _packages(),
        "variables": harmless(os.environ),
        "changes": changes[:LARGEST_CHANGES],
        "changes_cut": len(changes) > LARGEST_CHANGES,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def harmless(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that move a computation; none that may hold a secret, and no credentials in addresses."""
    chosen = {n: v for n, v in variables.items() if _VARIABLES.match(n) and not _SECRET.search(n)}
    return {name: _CREDENTIALS_IN_URL.sub("://***@", value) for name, value in sorted(chosen.items())}


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
    commit, changes = _git("rev-parse", "HEAD").strip(), _changes()
    return {"commit": commit, "uncommitted_digest": blake3(changes.encode()).hexdigest(length=16) if changes else ""}


@functools.cache
def _changes() -> str:
    """The uncommitted changes as a patch that `git apply` takes."""
    return _git("diff", "--binary", "HEAD") if _git("rev-parse", "HEAD") else ""


@functools.cache
def _git(*arguments: str) -> str:
    return _run("git", "-C", str(Path(__file__).parent), *arguments)


def _lock_digest() -> str:
    """Of the file that pins every package: the checkout's, or the image's."""
    checkouts = [folder / "requirements.lock" for folder in Path(__file__).resolve().parents]
    found = next((path for path in (*checkouts, *_IMAGE_LOCKS) if path.is_file()), None)
    return hash_file(found) if found is not None else ""


@functools.cache
def _packages() -> list[str]:
    """All installed packages as pins."""
    folders = [Path(place) for place in sys.path if Path(place).is_dir()]
    stems = {found.name.removesuffix(".dist-info") for folder in folders for found in folder.glob("*.dist-info")}
    return sorted("==".join(stem.lower().rsplit("-", 1)) for stem in stems)


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
    return done.stdout if done.returncode == 0 else ""
