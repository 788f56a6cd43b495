"""The disk fills up: it is said clearly, nothing half-written counts, and all goes on once there is room."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from installation import Installation, refused
from recipes import recipe, write_documents, write_recipe

DISK_BYTES = 96 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def confined(small_disk: Path) -> Iterator[Installation]:
    installation = Installation(small_disk)
    installation.up("--nodes", "2")
    yield installation
    (small_disk / "ballast").unlink(missing_ok=True)
    installation.down()


def fill(disk: Path, *, but_bytes: int) -> None:
    """Write until so much is left; the services write too meanwhile."""
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while (left := free_bytes(disk) - but_bytes) > 0:
            ballast.write(bytes(min(left, 1 << 20)))


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def all_serve(installation: Installation) -> bool:
    return all(item["serving"] for item in installation.json_unchecked("status"))


def datasets(installation: Installation) -> set[str]:
    return {item["metadata"]["name"].rpartition("/")[2] for item in installation.json("datasets", "list")}


@pytest.mark.timeout(600)
def test_full_disk_is_named_loses_nothing_and_the_run_goes_on_when_there_is_room(
    confined: Installation, small_disk: Path, documents: Path, tmp_path: Path
):
    first = write_recipe(tmp_path / "first.yaml", recipe("first", documents))
    assert confined.longhaul("run", str(first), "--detach").returncode == 0
    wait(lambda: "first" in datasets(confined), "the first dataset is committed")
    confined.longhaul("runs", "cancel", "first")
    shown = confined.json("datasets", "show", "first")

    fill(small_disk, but_bytes=3 << 20)
    more = write_documents(tmp_path / "more", documents=200, sentences=200, seed=2)
    second = write_recipe(tmp_path / "second.yaml", recipe("second", more))
    done = confined.longhaul("run", str(second))
    refused(done, 1, "No space left to write", str(small_disk), "Free space")
    assert datasets(confined) == {"first"}
    assert confined.json("datasets", "show", "first") == shown
    assert not list((small_disk / "objects").glob("projects/default/datasets/second/*/manifest.json"))

    (small_disk / "ballast").unlink()
    done = confined.longhaul("run", str(second), "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    wait(lambda: "second" in datasets(confined), "the second dataset is committed")
    assert int(confined.json("datasets", "show", "second")["dataset"]["documents"]) == 200


@pytest.mark.timeout(600)
def test_disk_without_a_byte_left_ends_no_service_for_good(
    confined: Installation, small_disk: Path, documents: Path, tmp_path: Path
):
    fill(small_disk, but_bytes=0)
    assert free_bytes(small_disk) == 0
    path = write_recipe(tmp_path / "recipe.yaml", recipe("starved", documents))
    refused(confined.longhaul("run", str(path)), 7, "no space left for the database", str(small_disk))
    process = next(item for item in confined.json_unchecked("status") if item["name"] == "ingest")
    os.kill(process["pid"], signal.SIGKILL)
    (small_disk / "ballast").unlink()
    wait(lambda: all_serve(confined), "all services serve again")
    assert confined.longhaul("run", str(path), "--detach").returncode == 0
    wait(lambda: "starved" in datasets(confined), "the dataset is committed")
