"""A folder as object store under what machines do: writers killed, disks full, processes racing, folders pruned."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from longhaul_core.errors import FailedPrecondition, LonghaulError, PermissionDenied, ResourceExhausted
from longhaul_core.objects import FilesystemStore, open_store

WRITER = """
import sys
from pathlib import Path
from longhaul_core.objects import FilesystemStore
store = FilesystemStore.open(Path(sys.argv[1]))
store.put("kept", b"first")
with store.open_write(sys.argv[2]) as out:
    while True:
        out.write(bytes(1 << 16))
        print(out.tell(), flush=True)
"""

RACER = """
import sys
from pathlib import Path
from longhaul_core.errors import AlreadyExists
from longhaul_core.objects import FilesystemStore
store = FilesystemStore.open(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    try:
        store.put("race/" + line.strip(), sys.argv[2].encode(), if_absent=True)
        print("won", flush=True)
    except AlreadyExists:
        print("lost", flush=True)
"""


def temporaries(root: Path) -> list[Path]:
    return list((root / ".tmp").iterdir())


def keys(store: FilesystemStore) -> list[str]:
    return [info.key for info in store.list()]


@pytest.mark.parametrize("key", ["new/one", "kept"])
def test_put_killed_midway_leaves_nothing_visible_and_is_swept(tmp_path: Path, key: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, key], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"65536\n"
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    (left,) = temporaries(tmp_path)
    assert left.stat().st_size >= 65536
    store = FilesystemStore.open(tmp_path)
    assert temporaries(tmp_path) == [left]
    assert keys(store) == ["kept"]
    assert store.get("kept") == b"first"
    FilesystemStore.open(tmp_path, sweep_after_seconds=0)
    assert temporaries(tmp_path) == []


def test_sweep_spares_a_writer_that_lives_however_old(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    with store.open_write("k") as out:
        out.write(b"slow")
        (left,) = temporaries(tmp_path)
        os.utime(left, (0, 0))
        FilesystemStore.open(tmp_path, sweep_after_seconds=0)
    assert store.get("k") == b"slow"
    assert temporaries(tmp_path) == []


def test_a_writer_that_is_forgotten_leaves_no_file(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    store.open_write("k").write(b"forgotten")
    assert temporaries(tmp_path) == []
    assert keys(store) == []


def test_conditional_create_between_processes_has_one_winner_each_time(tmp_path: Path) -> None:
    rounds = 50
    command: list[str | Path] = [sys.executable, "-c", RACER, tmp_path]
    racers = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    lines = "".join(f"{number}\n" for number in range(rounds))
    with ThreadPoolExecutor(3) as pool:
        outputs = [text.split() for text, _ in pool.map(lambda racer: racer.communicate(lines), racers)]
    store = FilesystemStore.open(tmp_path)
    for number in range(rounds):
        winners = [str(racer) for racer in range(3) if outputs[racer][number] == "won"]
        assert [store.get(f"race/{number}").decode()] == winners
    assert temporaries(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_put_on_a_full_disk_says_disk_full_and_keeps_what_was(small_disk: Path) -> None:
    store = FilesystemStore.open(small_disk)
    store.put("kept", b"x" * 100_000)
    with pytest.raises(ResourceExhausted) as caught:
        store.put("kept", b"y" * 2_000_000)
    assert caught.value.reason == "DISK_FULL"
    assert caught.value.metadata["path"] == str(small_disk / "kept")
    assert int(caught.value.metadata["free_bytes"]) < 2_000_000
    assert str(small_disk / "kept") in caught.value.message
    assert store.get("kept") == b"x" * 100_000
    assert temporaries(small_disk) == []
    store.put("again", b"z" * 100_000)
    assert keys(store) == ["again", "kept"]


def test_put_past_the_file_size_limit_says_disk_full(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ResourceExhausted) as caught:
            store.put("k", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "DISK_FULL"
    assert keys(store) == []
    assert temporaries(tmp_path) == []


def test_put_below_or_above_another_object_is_refused(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    store.put("a/b", b"1")
    for key in ("a/b/c", "a"):
        for if_absent in (False, True):
            with pytest.raises(FailedPrecondition) as caught:
                store.put(key, b"2", if_absent=if_absent)
            assert caught.value.reason == "OBJECT_KEY_CONFLICT"
    assert keys(store) == ["a/b"]
    assert temporaries(tmp_path) == []


def test_delete_prunes_empty_folders_while_others_put(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    stop = threading.Event()
    rounds = 0

    def churn() -> int:
        count = 0
        while not stop.is_set():
            store.put("deep/er/other", b"")
            store.delete("deep/er/other")
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        churned = pool.submit(churn)
        try:
            while rounds < 100:
                store.put(f"deep/er/{rounds}", b"kept", if_absent=rounds % 2 == 0)
                assert store.get(f"deep/er/{rounds}") == b"kept"
                store.delete(f"deep/er/{rounds}")
                rounds += 1
        finally:
            stop.set()
        assert churned.result() > 0
    assert keys(store) == []
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["with space", "with#hash", "with?mark", "with%25percent", "ümlaut"])
def test_open_store_takes_any_folder_name(tmp_path: Path, name: str) -> None:
    store = open_store(f"file://{tmp_path / name}")
    store.put("k", b"1")
    assert (tmp_path / name / "k").read_bytes() == b"1"


def test_open_store_where_a_file_lies_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LonghaulError, match="file"):
        open_store(f"file://{tmp_path / 'file'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_put_into_a_read_only_folder_is_denied(tmp_path: Path) -> None:
    store = FilesystemStore.open(tmp_path)
    (tmp_path / ".tmp").chmod(0o500)
    with pytest.raises(PermissionDenied):
        store.put("k", b"")
