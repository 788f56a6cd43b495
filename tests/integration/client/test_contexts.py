"""A user on another machine: contexts, TLS, tokens and roles, through the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import yaml
from longhaul_client.contexts import ClusterContext
from longhaul_core.certificates.authority import create_authority, issue
from longhaul_core.rpc.client import connect_sync
from longhaul_core.settings import GRPC_PORTS

USERS = {"vera": "viewer", "sam": "submitter"}


@dataclass(frozen=True, slots=True)
class Desk:
    """A user's machine: a home folder and the command."""

    home: Path
    server: str

    def longhaul(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LONGHAUL_", "XDG_"))}
        return subprocess.run(
            [sys.executable, "-m", "longhaul_client", *arguments],
            env={**environment, "HOME": str(self.home)},
            cwd=self.home,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self, *arguments: str, text: str = "") -> str:
        ended = self.longhaul(*arguments, text=text)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A checkpoint service with TLS and users whose tokens `longhaul token` has made."""
    folder = tmp_path_factory.mktemp("server")
    home = tmp_path_factory.mktemp("home")
    desk = Desk(home, "")
    authority = create_authority("test", datetime.now(UTC))
    certificate = issue(authority, ["127.0.0.1"], datetime.now(UTC))
    for path, content in (
        (home / "ca.pem", authority.certificate),
        (folder / "server.pem", certificate.certificate),
        (folder / "server.key", certificate.key),
    ):
        path.write_bytes(content)
    entries = []
    for name, role in USERS.items():
        made = json.loads(desk.done("token", name, "--role", role, "--json"))
        (home / f"{name}.token").write_text(made["token"] + "\n")
        entries.append(made["user"])
    (folder / "users.yaml").write_text(yaml.safe_dump({"users": entries}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "longhaul_checkpoint"],
            env={
                **os.environ,
                "LONGHAUL_DATA_DIR": str(folder / "data"),
                "LONGHAUL_LISTEN_ADDRESS": "127.0.0.1:0",
                "LONGHAUL_METRICS_ADDRESS": "",
                "LONGHAUL_API_TOKEN": "services-only",
                "LONGHAUL_USERS_FILE": str(folder / "users.yaml"),
                "LONGHAUL_TLS_CERTIFICATE": str(folder / "server.pem"),
                "LONGHAUL_TLS_KEY": str(folder / "server.key"),
                "LONGHAUL_TLS_CA": str(home / "ca.pem"),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = wait_address(folder / "log", process)
        with closing(connect_sync(address, tls_ca=authority.certificate)) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield Desk(home, address)
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if '"service started"' in line:
                return str(json.loads(line)["address"])
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def add(desk: Desk, name: str, *options: str, text: str = "") -> str:
    reach = ("--endpoint", desk.server, "--ca", str(desk.home / "ca.pem"))
    return desk.done("context", "add", name, *reach, *options, text=text)


def test_context_reaches_the_installation_with_the_users_role(desk: Desk) -> None:
    assert "context vera is current" in add(desk, "vera", "--token-file", str(desk.home / "vera.token"))
    states = {row["name"]: row["serving"] for row in json.loads(desk.longhaul("status", "--json").stdout)}
    assert states["checkpoint"] is True
    assert states["training"] is False
    desk.done("checkpoints", "list")
    refused = desk.longhaul("checkpoints", "pin", "nothing")
    assert refused.returncode == 8
    assert "PinCheckpoint needs the role submitter; vera is a viewer" in refused.stderr

    add(desk, "sam", "--token-file", "-", text=(desk.home / "sam.token").read_text())
    missing = desk.longhaul("checkpoints", "pin", "nothing")
    assert missing.returncode == 3, missing.stderr
    assert desk.longhaul("--context", "vera", "checkpoints", "pin", "nothing").returncode == 8


def test_token_that_is_not_known_or_missing_is_refused_with_what_to_do(desk: Desk) -> None:
    (desk.home / "stale.token").write_text("stale")
    add(desk, "stale", "--token-file", str(desk.home / "stale.token"))
    refused = desk.longhaul("checkpoints", "list")
    assert refused.returncode == 8
    assert "not known here" in refused.stderr
    add(desk, "anonymous")
    refused = desk.longhaul("checkpoints", "list")
    assert refused.returncode == 8
    assert "longhaul context add" in refused.stderr


def test_plain_channel_to_a_tls_server_does_not_answer(desk: Desk) -> None:
    desk.done("context", "add", "plain", "--endpoint", desk.server, "--plaintext")
    assert desk.longhaul("checkpoints", "list").returncode == 5


def test_contexts_are_listed_used_and_removed_and_tokens_stay_hidden(desk: Desk) -> None:
    add(desk, "one", "--token-file", str(desk.home / "vera.token"))
    shown = desk.done("context", "list")
    assert desk.server in shown
    assert (desk.home / "vera.token").read_text().strip() not in shown
    file = desk.home / ".config" / "longhaul" / "contexts.yaml"
    assert file.stat().st_mode & 0o077 == 0
    desk.done("context", "use", "local")
    assert desk.longhaul("runs", "list").returncode == 7
    unknown = desk.longhaul("context", "use", "absent")
    assert unknown.returncode == 3
    assert "absent" in unknown.stderr
    desk.done("context", "remove", "one")
    assert "one" not in {row["name"] for row in json.loads(desk.done("context", "list", "--json"))}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--endpoint", "nowhere:port"), "endpoint"),
        (("--endpoint", "a:1", "--service", "billing=b:2"), "'billing' is not a service"),
        (("--endpoint", "a:1", "--service", "ingest"), "NAME=host:port"),
        (("--endpoint", "a:1", "--ca", "absent.pem"), "absent.pem"),
    ],
)
def test_wrong_context_is_refused(desk: Desk, arguments: tuple[str, ...], text: str) -> None:
    refused = desk.longhaul("context", "add", "wrong", *arguments)
    assert refused.returncode == 6, refused.stderr
    assert text in refused.stderr


def test_host_without_a_port_has_each_service_at_its_own() -> None:
    addresses = ClusterContext(endpoint="lab.example", addresses={"corpus": "other:1"}).connection().addresses
    assert addresses == {service: f"lab.example:{port}" for service, port in GRPC_PORTS.items()} | {"corpus": "other:1"}


def test_damaged_contexts_file_is_named(desk: Desk, tmp_path: Path) -> None:
    home = tmp_path / ".config" / "longhaul"
    home.mkdir(parents=True)
    (home / "contexts.yaml").write_text("current: [")
    refused = Desk(tmp_path, desk.server).longhaul("runs", "list")
    assert refused.returncode == 6
    assert "contexts.yaml" in refused.stderr
