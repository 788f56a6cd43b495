"""Users of an installation: a YAML file of names, roles and digests of their tokens, read again when it changes.

users:
- name: alice
role: submitter          # viewer, submitter or operator
token_sha256: 9f86d0…    # of the token; the token itself is nowhere on the server
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longhaul_core.clock import Clock
from longhaul_core.errors import InvalidArgument
from longhaul_core.logging import get_logger

LOOK_SECONDS = 5.0
"""The file is looked at again after this long."""

log = get_logger(__name__)


class User(BaseModel):
    """One user, or one program of a user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    role: Literal["viewer", "submitter", "operator"]
    token_sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    users: list[User] = []


class UserTokens:
    """The users of a file. A file that becomes unreadable or wrong leaves those in force that were read last."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read the file.

        Raises:
            InvalidArgument: It is missing or wrong; names the place.
        """
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._users = read_users(path)
        self._looked = clock.monotonic()

    def find(self, token: str) -> User | None:
        """The user of a token."""
        self._refresh()
        return self._users.get(digest_of(token))

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._users = read_users(self._path)
        except InvalidArgument as error:
            log.error("users not read again", path=str(self._path), error=str(error))
            return
        log.info("users read again", path=str(self._path), users=len(self._users))


def digest_of(token: str) -> str:
    """How a token stands in the file. Tokens are 256 random bits, so a plain digest cannot be turned back."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_users(path: Path) -> Mapping[str, User]:
    """The users of a file, by the digest of their token.

    Raises:
        InvalidArgument: USERS_INVALID, with the file and the place in it.
    """
    try:
        content = _File.model_validate(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise _invalid(path, str(error.strerror or error)) from error
    except yaml.YAMLError as error:
        raise _invalid(path, " ".join(str(error).split())) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _invalid(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    users = {user.token_sha256: user for user in content.users}
    if len(users) < len(content.users):
        raise _invalid(path, "two users have the same token")
    return users


def _invalid(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"users file {path}: {what}",
        reason="USERS_INVALID",
        metadata={"path": str(path)},
        action="see docs/access.md for its format",
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
