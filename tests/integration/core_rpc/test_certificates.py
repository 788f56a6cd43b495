"""A certificate that is renewed while a service is at work."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from longhaul_core.certificates.authority import KeyPair, create_authority, issue
from longhaul_core.errors import FailedPrecondition
from longhaul_core.rpc.certificate_files import CertificateFiles
from longhaul_core.settings import ServiceSettings

NOW = datetime.now(UTC)
AUTHORITY = create_authority("test", NOW)
CALLERS = 3


def written(folder: Path, pair: KeyPair, *, key: bytes = b"") -> None:
    """Put the files in place one after the other, as nobody should."""
    (folder / "tls.crt").write_bytes(pair.certificate)
    (folder / "tls.key").write_bytes(key or pair.key)


def serial(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


async def shown(address: str) -> int:
    """The serial number that a new connection is shown."""
    host, _, port = address.rpartition(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=60)
    return serial(pem.encode())


async def test_renewed_certificate_is_shown_and_no_call_fails(
    serve: Any, make_echo: Any, settings: ServiceSettings, tmp_path: Path
) -> None:
    first, second, third = (issue(AUTHORITY, ["127.0.0.1", "localhost"], NOW) for _ in range(3))
    written(tmp_path, first)
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    guarded = settings.model_copy(update={"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"})
    echo = make_echo()
    async with serve(echo, settings=guarded, tls_ca=tmp_path / "ca.crt") as stub:
        address = echo.context.address
        done = asyncio.Event()

        async def call() -> int:
            made = 0
            while not done.is_set():
                assert await stub.call("Unary", b"a") == [b"a"]
                made += 1
            return made

        callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
        assert await shown(address) == serial(first.certificate)
        written(tmp_path, second)
        assert await shown(address) == serial(second.certificate)
        written(tmp_path, third, key=first.key)  # half of a renewal: what was good stays
        assert await shown(address) == serial(second.certificate)
        (tmp_path / "tls.key").unlink()
        assert await shown(address) == serial(second.certificate)
        written(tmp_path, third)
        assert await shown(address) == serial(third.certificate)
        done.set()
        assert all(made > 0 for made in await asyncio.gather(*callers))


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("absent", "tls.key", "TLS_UNREADABLE"),
        ("tls.key", "tls.crt", "TLS_INVALID"),
        ("tls.crt", "other.key", "TLS_INVALID"),
    ],
)
def test_files_that_are_no_pair_are_refused_at_start(tmp_path: Path, certificate: str, key: str, reason: str) -> None:
    pair, other = (issue(AUTHORITY, ["localhost"], NOW) for _ in range(2))
    written(tmp_path, pair)
    (tmp_path / "other.key").write_bytes(other.key)
    with pytest.raises(FailedPrecondition, match=str(tmp_path / certificate)) as refused:
        CertificateFiles(tmp_path / certificate, tmp_path / key).credentials()
    assert refused.value.reason == reason
