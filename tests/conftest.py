"""What tests of all parts share: free ports, programs of the system, a PostgreSQL server, and a clean end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from longhaul_core.collector import importing
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

SESSION_VARIABLE = "PYTEST_LONGHAUL_SESSION"
"""Stands in the environment of every process that these tests start, so that none is overlooked."""

PROGRAM_FOLDERS = {"postgres": "/usr/lib/postgresql/*/bin"}
"""Where Debian keeps programs that it leaves out of PATH."""

_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes of Python itself, which end with this one."""


def find_program(name: str) -> Path | None:
    """Return the newest installed program of a name, or None."""
    if name in PROGRAM_FOLDERS:
        found = sorted(Path("/").glob(f"{PROGRAM_FOLDERS[name][1:]}/{name}"), key=_version)
        return found[-1] if found else None
    path = shutil.which(name)
    return Path(path) if path else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the files in tests/golden anew")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[SESSION_VARIABLE] = uuid.uuid4().hex


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What all test modules import is much; the collector would look through it again and again."""
    with importing():
        return (yield)


class FolderScheduling(LoadScopeScheduling):
    """With `-n`: tests of a folder share the services that they start, so one worker runs them; unit tests by file.

    Blocks of the simulation share nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if "/simulation/" in path:
            return nodeid
        return path if "/unit/" in path else path.rpartition("/")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FolderScheduling:
    return FolderScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs_program"):
        for name in marker.args:
            if find_program(name) is None:
                missing = f"the program {name!r} is not installed"
                if os.environ.get("LONGHAUL_REQUIRE_PROGRAMS") == "1":
                    pytest.fail(missing, pytrace=False)
                pytest.skip(missing)


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    return take_port()


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail the session if a process that a test started outlives the tests; end it all the same."""
    yield
    deadline = time.monotonic() + 5
    while (left := _processes_of_session()) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    if left:
        described = [" ".join(process.cmdline())[:200] for process in left if process.is_running()]
        for process in left:
            process.kill()
        pytest.fail(f"processes left behind: {described}", pytrace=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of this session on loopback; the URL has no database. For tests that need postgres."""
    with serving_postgres("fsync=off") as url:
        yield url


@contextmanager
def serving_postgres(*settings: str) -> Iterator[str]:
    """A new PostgreSQL server on loopback, gone afterwards; the URL has no database."""
    program = find_program("postgres")
    assert program is not None, "PostgreSQL is not installed; mark a test with needs_program('postgres')"
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="longhaul-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    server: subprocess.Popen[bytes] | None = None
    try:
        data, port = folder / "data", take_port()
        options = ["--username=longhaul", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        _run_as(user, [str(program.with_name("initdb")), "-D", str(data), *options])
        places = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"]
        arguments = [part for setting in (*places, *settings) for part in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [str(program), "-D", str(data), *arguments], stdout=log, stderr=log, cwd="/", **_as_user(user)
            )
        url = f"postgresql://longhaul@127.0.0.1:{port}"
        _await_postgres(url, server, folder / "log")
        yield url
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped after the test."""
    with _new_database(postgres_server) as url:
        yield url


@pytest.fixture
def other_postgres_url(postgres_server: str) -> Iterator[str]:
    """One more, for what is moved from one to the other."""
    with _new_database(postgres_server) as url:
        yield url


@contextmanager
def _new_database(postgres_server: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"{postgres_server}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.parts if part.isdecimal())


def is_alive(pid: int) -> bool:
    """Whether a process runs, of which a zombie is none; it may end at any moment of the question."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def take_port() -> int:
    """Find a TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _as_user(user: str) -> dict[str, str]:
    return {"user": user} if os.geteuid() == 0 else {}


def _run_as(user: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **_as_user(user))
    assert done.returncode == 0, done.stderr


def _await_postgres(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=1).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"PostgreSQL does not answer: {log.read_text()}")


def _processes_of_session() -> list[psutil.Process]:
    mark, own = os.environ[SESSION_VARIABLE], os.getpid()
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            started_here = process.environ().get(SESSION_VARIABLE) == mark
            if started_here and not any(helper in " ".join(process.cmdline()) for helper in _HELPERS):
                found.append(process)
        except psutil.Error:
            continue
    return found
