from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from longhaul_core.manifests import Manifest, put_part
from longhaul_core.objects import ObjectStore, open_store
from longhaul_trainer.worker.compiled import CompiledFiles
from safetensors.numpy import load, save

CPU = torch.device("cpu")

PROGRAM = """
import torch
torch._inductor.config.cpp.vec_isa_ok = True
print(float(torch.compile(lambda values: values.sin() * 2 + 1)(torch.ones(8)).sum()))
"""

COMPILER = """#!/bin/sh
case "$*" in *" -shared "*) echo "$*" >> {log} ;; esac
exec c++ "$@"
"""


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'objects'}")


def settle(folder: Path) -> None:
    """As if all files had been written a minute ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 60, time.time() - 60))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    settle(folder)


def committed(store: ObjectStore, parts: Mapping[str, bytes]) -> Manifest:
    held = [put_part(store, f"run/step-1/{name}", data) for name, data in parts.items()]
    return Manifest(kind="Checkpoint", name="c", uid="c", created=datetime(2026, 1, 1, tzinfo=UTC), parts=held)


def run_compiled(folder: Path, compiler: Path) -> str:
    """The program's output, in a process of its own that compiles into this folder."""
    variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "CXX": str(compiler), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True, timeout=300
    ).stdout


@pytest.mark.slow
def test_what_was_compiled_is_not_compiled_on_another_machine(tmp_path: Path, store: ObjectStore) -> None:
    log, compiler = tmp_path / "compiler.log", tmp_path / "compiler"
    compiler.write_text(COMPILER.format(log=log))
    compiler.chmod(0o755)
    first, second = tmp_path / "first", tmp_path / "second"
    before = run_compiled(first, compiler)
    assert log.read_text()
    assert list((first / "fxgraph").rglob("*"))
    settle(first)
    parts = CompiledFiles(first, CPU).document()
    log.unlink()
    assert CompiledFiles(second, CPU).restore(store, committed(store, parts)) > 0
    assert not (second / "fxgraph").exists()
    assert run_compiled(second, compiler) == before
    assert not log.exists()


def test_pickles_and_python_files_are_not_kept(tmp_path: Path) -> None:
    kept = {"ab/kernel.so": b"1", "triton/0/XY-z_/k.cubin": b"2", "triton/0/XY-z_/k.json": b"{}"}
    left = {"fxgraph/ab/c/d": pickle.dumps(1), "fxgraph/x.so": b"3", "aotautograd/a.json": b"4", "ab/code.py": b"5"}
    write(tmp_path, {**kept, **left, "ab/empty.so": b"", "locks/kernel.lock": b"6"})
    compiled = CompiledFiles(tmp_path, CPU)
    ((name, data),) = compiled.document().items()
    assert name.startswith("compiled-")
    assert {path: array.tobytes() for path, array in load(data).items()} == kept
    assert compiled.document()[name] is data
    write(tmp_path, {"cd/second.so": b"7"})
    assert set(load(compiled.document()[name])) == {*kept, "cd/second.so"}


def test_file_that_may_still_be_written_waits_for_the_next_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, {"ab/kernel.so": b"1"})
    (tmp_path / "ab/linking.so").write_bytes(b"half")
    ((_, data),) = CompiledFiles(tmp_path, CPU).document().items()
    assert set(load(data)) == {"ab/kernel.so"}


def test_nothing_compiled_is_no_part(tmp_path: Path) -> None:
    assert CompiledFiles(tmp_path / "absent", CPU).document() == {}


def test_files_that_are_there_are_left_alone(tmp_path: Path, store: ObjectStore) -> None:
    write(tmp_path / "old", {"ab/one.so": b"old", "ab/two.so": b"two"})
    manifest = committed(store, CompiledFiles(tmp_path / "old", CPU).document())
    write(tmp_path / "new", {"ab/one.so": b"new"})
    assert CompiledFiles(tmp_path / "new", CPU).restore(store, manifest) == 1
    assert (tmp_path / "new/ab/one.so").read_bytes() == b"new"
    assert (tmp_path / "new/ab/two.so").read_bytes() == b"two"


@pytest.mark.parametrize(
    "name", ["../out.so", "/tmp/out.so", "a/../../out.so", "fxgraph/a.so", "ab/code.py", ".hid/a.so"]
)
def test_names_that_no_compiler_uses_are_refused(tmp_path: Path, store: ObjectStore, name: str) -> None:
    compiled = CompiledFiles(tmp_path / "folder", CPU)
    manifest = committed(store, {compiled.name: save({name: np.frombuffer(b"x", np.uint8)})})
    assert compiled.restore(store, manifest) == 0
    assert not list(tmp_path.rglob("*.so")) + list(tmp_path.rglob("*.py"))


def test_damaged_part_is_not_used(tmp_path: Path, store: ObjectStore) -> None:
    write(tmp_path / "old", {"ab/one.so": b"one"})
    manifest = committed(store, CompiledFiles(tmp_path / "old", CPU).document())
    data = store.get(manifest.parts[0].key)
    store.put(manifest.parts[0].key, data[:-1] + b"?")
    assert CompiledFiles(tmp_path / "new", CPU).restore(store, manifest) == 0
    assert not (tmp_path / "new/ab").exists()
