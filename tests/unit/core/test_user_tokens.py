from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from longhaul_core.clock import ManualClock
from longhaul_core.errors import InvalidArgument, PermissionDenied
from longhaul_core.rpc.access import Principal, Role
from longhaul_core.rpc.auth import open_authenticator, require_own_run, set_principal
from longhaul_core.rpc.pod_tokens import PodClaim, PodTokens, key_from
from longhaul_core.rpc.user_tokens import LOOK_SECONDS, UserTokens, digest_of
from longhaul_core.settings import ServiceSettings
from pydantic import SecretStr

CLAIM = PodClaim("projects/p/trainingRuns/r", "uid", 2, 3)


def users_file(path: Path, name: str = "alice", role: str = "viewer", token: str = "secret") -> Path:
    path.write_text(f"users:\n  - {{name: {name}, role: {role}, token_sha256: {digest_of(token)}}}\n")
    return path


def test_users_are_found_by_token_and_a_changed_file_is_read_again(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    path = users_file(tmp_path / "users.yaml")
    users = UserTokens(path, clock)
    found = users.find("secret")
    assert found is not None
    assert (found.name, found.role) == ("alice", "viewer")
    assert users.find("other") is None
    users_file(path, "bob", "operator", "another-one")
    clock.advance(LOOK_SECONDS)
    changed = users.find("another-one")
    assert changed is not None
    assert changed.name == "bob"
    assert users.find("secret") is None


def test_file_that_becomes_wrong_leaves_the_users_in_force(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    path = users_file(tmp_path / "users.yaml")
    users = UserTokens(path, clock)
    path.write_text("users: [{name: alice, role: king}]")
    clock.advance(LOOK_SECONDS)
    assert users.find("secret") is not None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("users: [", "users.yaml"),
        ("people: []", "people"),
        ("users: [{name: a, role: king, token_sha256: " + "a" * 64 + "}]", "users.0.role"),
        ("users: [{name: a, role: viewer, token_sha256: secret}]", "users.0.token_sha256"),
        (
            "users: [{name: a, role: viewer, token_sha256: "
            + "a" * 64
            + "}, {name: b, role: viewer, token_sha256: "
            + "a" * 64
            + "}]",
            "same token",
        ),
    ],
)
def test_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "users.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=place):
        UserTokens(path, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"absent\.yaml"):
        UserTokens(tmp_path / "absent.yaml", ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))


def test_users_without_a_token_of_the_services_are_refused(tmp_path: Path) -> None:
    settings = ServiceSettings(users_file=users_file(tmp_path / "users.yaml"))
    with pytest.raises(InvalidArgument, match="LONGHAUL_API_TOKEN"):
        open_authenticator(settings, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))


async def test_pod_is_known_by_the_key_that_all_services_share() -> None:
    settings = ServiceSettings(api_token=SecretStr("word"))
    authenticator = open_authenticator(settings, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    token = PodTokens(key_from("word")).issue(CLAIM)
    principal = await authenticator.authenticate("/a.B/C", {"authorization": f"Bearer {token}"})
    assert (principal.role, principal.pod) == (Role.POD, CLAIM)


def test_pod_token_of_another_key_or_with_another_claim_is_nothing() -> None:
    tokens = PodTokens(b"key")
    token = tokens.issue(CLAIM)
    assert tokens.read(token) == CLAIM
    assert PodTokens(b"other").read(token) is None
    body, _, signature = token.removeprefix("pod.").partition(".")
    other = PodTokens(b"x").issue(PodClaim(CLAIM.run, CLAIM.run_uid, 2, 4)).removeprefix("pod.").partition(".")[0]
    assert tokens.read(f"pod.{other}.{signature}") is None
    for broken in ("", "pod.", "pod..", f"pod.{body}", f"pod.{body}.%%", "secret"):
        assert tokens.read(broken) is None


def test_pod_gets_at_its_own_run_only() -> None:
    set_principal(Principal("pod", Role.POD, CLAIM))
    try:
        require_own_run(CLAIM.run)
        with pytest.raises(PermissionDenied, match="trainingRuns/other"):
            require_own_run("projects/p/trainingRuns/other")
    finally:
        set_principal(Principal("anyone", Role.SERVICE))
