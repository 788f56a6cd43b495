"""The stores under contract: a folder, an S3 with conditional writes (moto), one without, on real files (rclone)."""

import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from longhaul_core.objects import FilesystemStore, ObjectStore, S3Location
from longhaul_core.objects.s3 import S3Store
from longhaul_core.objects.s3_client import connect
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

ACCESS, SECRET = "contract-access", "contract-secret"
PART_BYTES = 5 << 20  # the smallest that S3 allows


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """One request at a time: moto checks the condition and stores in two steps, between which a thread can slip."""
    server = make_server(
        "127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), request_handler=MotoRequestHandler
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def rclone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rclone")


@pytest.fixture(scope="session")
def rclone_endpoint(rclone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command: list[str | Path] = [
        Path(sys.executable).with_name("rclone"),
        "serve",
        "s3",
        rclone_folder,
        "--config",
        "/dev/null",
    ]
    options = ["--addr", "127.0.0.1:0", "--auth-key", f"{ACCESS},{SECRET}"]
    log = tmp_path_factory.mktemp("rclone-log") / "log"
    with log.open("wb") as sink, subprocess.Popen([*command, *options], stderr=sink) as server:
        try:
            yield wait_for_address(log)
        finally:
            server.kill()


def wait_for_address(log: Path) -> str:
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://(127\.0\.0\.1:\d+)", log.read_text())):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def make_location(endpoint: str) -> S3Location:
    location = S3Location(f"b-{uuid.uuid4().hex}", "team/", endpoint, "us-east-1", secure=False)
    connect(location).make_bucket(location.bucket)
    return location


@pytest.fixture
def moto_location(moto_endpoint: str, credentials: None) -> S3Location:
    return make_location(moto_endpoint)


@pytest.fixture
def rclone_location(rclone_endpoint: str, credentials: None) -> S3Location:
    return make_location(rclone_endpoint)


@pytest.fixture(scope="session")
def shared_locations() -> dict[str, S3Location]:
    """One bucket a server for the suite, as a new one must be probed; each test leaves it empty."""
    return {}


def open_named(name: str, request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    if name == "folder":
        yield FilesystemStore.open(request.getfixturevalue("tmp_path") / "objects")
        return
    request.getfixturevalue("credentials")
    shared: dict[str, S3Location] = request.getfixturevalue("shared_locations")
    if name not in shared:
        shared[name] = make_location(request.getfixturevalue(f"{name}_endpoint"))
    store = S3Store.open(shared[name], part_bytes=PART_BYTES)
    yield store
    for info in list(store.list()):
        store.delete(info.key)


@pytest.fixture(params=["folder", "moto", "rclone"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    yield from open_named(request.param, request)


@pytest.fixture(params=["folder", "moto"])
def conditional_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    yield from open_named(request.param, request)


@pytest.fixture(params=["rclone"])
def unconditional_store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    yield from open_named(request.param, request)
