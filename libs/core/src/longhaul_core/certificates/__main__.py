"""`python -m longhaul_core.certificates`: what the charts' hooks run.

    ensure  --namespace NS --authority SECRET [--certificate SECRET=NAME,NAME ...] [--label KEY=VALUE ...]
    remove  --namespace NS --authority SECRET [--certificate SECRET ...]

`ensure` makes the authority once and never again, and each certificate where it is missing, nearly over, of another
authority, or without a name that it needs; so it may run at every upgrade. `remove` is for an uninstallation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from longhaul_core.certificates.authority import KeyPair, create_authority, issue
from longhaul_core.certificates.secrets import API_SERVER, SERVICE_ACCOUNT, Secrets
from longhaul_core.errors import AlreadyExists, LonghaulError, Unavailable

EXIT_FAILED = 78


def ensure_authority(secrets: Secrets, name: str, labels: Mapping[str, str], now: datetime) -> KeyPair:
    """Return the authority of a secret, made now where there is none."""
    if (found := secrets.read(name)) is not None:
        return found
    made = create_authority(name, now)
    try:
        secrets.create(name, made, made.certificate, labels)
    except AlreadyExists:  # another hook was faster: its authority counts
        if (found := secrets.read(name)) is None:
            raise Unavailable(f"the secret {name} came and went", reason="SECRET_UNSTABLE") from None
        return found
    return made


def ensure_certificate(
    secrets: Secrets, name: str, names: Sequence[str], authority: KeyPair, labels: Mapping[str, str], now: datetime
) -> str:
    """Make the certificate of a secret good; return `kept`, `issued` or `renewed`."""
    found = secrets.read(name)
    if found is None:
        secrets.create(name, issue(authority, names, now), authority.certificate, labels)
        return "issued"
    if found.issued_by(authority) and set(names) <= found.names() and not found.needs_renewal(now):
        return "kept"
    secrets.replace(name, issue(authority, names, now), authority.certificate, labels)
    return "renewed"


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; one line a secret."""
    options = _parser().parse_args(arguments)
    secrets = Secrets(options.namespace, options.server, options.account)
    now = datetime.now(UTC)
    try:
        if options.action == "remove":
            for name in [*(text.partition("=")[0] for text in options.certificate), options.authority]:
                _say(name, "removed" if secrets.delete(name) else "absent")
            return 0
        labels = dict(text.split("=", 1) for text in options.label)
        authority = ensure_authority(secrets, options.authority, labels, now)
        _say(options.authority, "authority")
        for text in options.certificate:
            name, _, names = text.partition("=")
            _say(name, ensure_certificate(secrets, name, names.split(","), authority, labels, now))
    except LonghaulError as error:
        sys.stderr.write(f"certificates: {error}\n")
        return EXIT_FAILED
    return 0


def _say(name: str, outcome: str) -> None:
    sys.stdout.write(f"certificates: {name}: {outcome}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m longhaul_core.certificates", description=__doc__)
    parser.add_argument("action", choices=("ensure", "remove"))
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--certificate", action="append", default=[])
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--server", default=API_SERVER)
    parser.add_argument("--account", type=Path, default=SERVICE_ACCOUNT)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
