"""What the compiler made, kept as a part of each checkpoint, so that a restart elsewhere does not compile anew.

Only what takes the time is kept: C++ objects and Triton's kernels, files that the compiler finds again by a hash of
their source. What it keeps beside them as pickles (the caches of graphs) stays on the machine's own disk and is never
read from the store; without it a step is traced and lowered again, 1 s of the minute that a first step takes.

The files are programs. They are loaded only as a part of the committed checkpoint that the run continues from, by the
digest that the checkpoint service wrote into its manifest: as trustworthy as the weights, and written by the same run.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from longhaul_core.errors import DataLoss, LonghaulError
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest
from longhaul_core.objects import ObjectStore
from safetensors import SafetensorError
from safetensors.numpy import load, save

from longhaul_trainer.checkpoint.restore import read_part

LARGEST_BYTES = 256 << 20
SETTLED_SECONDS = 10.0
"""A file that was written to within this time may still be being linked."""

_KEPT = {".so", ".o", ".cpp", ".h", ".cubin", ".ptx", ".ttir", ".ttgir", ".llir", ".source", ".json", ".best_config"}
_PICKLED = {"fxgraph", "aotautograd"}
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

_log = get_logger(__name__)


class CompiledFiles:
    """The compiler's folder of a pod, and the part that it becomes."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self.name = f"compiled-{compiler_key(device)}.safetensors"
        self._seen: dict[str, int] = {}
        self._part: dict[str, bytes] = {}

    def document(self) -> Mapping[str, bytes]:
        """The part by its name; none where nothing was compiled. The same bytes until something more is compiled."""
        found = {path: size for path, size in self._files() if size}
        if found == self._seen:
            return self._part
        self._seen = found
        if sum(found.values()) > LARGEST_BYTES:
            _log.warning("compiled files not kept with the run: too large", bytes=sum(found.values()))
            self._part = {}
        else:
            arrays = {name: np.frombuffer((self._folder / name).read_bytes(), np.uint8) for name in sorted(found)}
            self._part = {self.name: save(arrays)} if arrays else {}
        return self._part

    def restore(self, store: ObjectStore, manifest: Manifest) -> int:
        """Puts the files of a checkpoint where the compiler looks for them; returns how many are new here.

        They only save time: what cannot be read is compiled again. A part made by another compiler, or for another
        kind of processor, has another name.
        """
        part = next((part for part in manifest.parts if part.key.endswith(f"/{self.name}")), None)
        if part is None or part.size > 2 * LARGEST_BYTES:
            return 0
        try:
            files = load(read_part(store, part))
            return sum(self._place(name, array.tobytes()) for name, array in sorted(files.items()))
        except (SafetensorError, LonghaulError, OSError) as error:
            _log.warning("compiled files of the checkpoint not used", key=part.key, error=str(error))
            return 0

    def _place(self, name: str, data: bytes) -> bool:
        """Writes one file, whole or not at all; one that is there already is left alone."""
        if not _PATH.fullmatch(name) or not _is_kept(name):
            raise DataLoss(f"{name!r} is no file of a compiler", reason="PART_MALFORMED")
        path = self._folder / name
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(partial).replace(path)
        return True

    def _files(self) -> list[tuple[str, int]]:
        found, now = [], time.time()
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and not path.is_symlink() and _is_kept(name) and _PATH.fullmatch(name):
                status = path.stat()
                if now - status.st_mtime > SETTLED_SECONDS:
                    found.append((name, status.st_size))
        return found


def compiled_folder(scratch_dir: str) -> Path:
    """Where a pod's compiler keeps its results."""
    return Path(scratch_dir) / "compiled"


def compiler_key(device: torch.device) -> str:
    """Names compiler and processor: what was compiled by one of them serves no other."""
    told = [torch.__version__, platform.python_version(), platform.machine(), device.type]
    if device.type == "cuda":
        told += [torch.cuda.get_device_name(device), str(torch.version.cuda)]
    else:
        told.append(torch.backends.cpu.get_cpu_capability())
    return blake3("\n".join(told).encode()).hexdigest(length=8)


def _is_kept(name: str) -> bool:
    return Path(name).suffix in _KEPT and name.split("/")[0] not in _PICKLED
