"""The certificate of a server, read again when its files change: a renewed one counts from the next connection on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from longhaul_core.errors import FailedPrecondition
from longhaul_core.logging import get_logger

log = get_logger(__name__)

Stamp = tuple[int, ...]


@dataclass(slots=True)
class CertificateFiles:
    """PEM files of a chain and its key. What cannot be used leaves in force what was read last."""

    certificate: Path
    key: Path
    _stamp: Stamp = field(default=(), init=False)

    def credentials(self) -> grpc.ServerCredentials:
        """What a server listens with.

        Raises:
            FailedPrecondition: The files cannot be read (TLS_UNREADABLE), or are no pair (TLS_INVALID).
        """
        try:
            self._stamp = self._stamp_of_files()
            first = self._read()
        except OSError as error:
            raise FailedPrecondition(
                f"cannot read the TLS files: {error}",
                reason="TLS_UNREADABLE",
                action="see LONGHAUL_TLS_CERTIFICATE and LONGHAUL_TLS_KEY",
            ) from error
        except ValueError as error:
            raise FailedPrecondition(
                f"{self.certificate} and {self.key} are no certificate with its key: {error}",
                reason="TLS_INVALID",
                action="see LONGHAUL_TLS_CERTIFICATE and LONGHAUL_TLS_KEY",
            ) from error
        return grpc.dynamic_ssl_server_credentials(first, self._renewed)  # type: ignore[arg-type]  # may give None

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, in threads of its own."""
        try:
            stamp = self._stamp_of_files()
            if stamp == self._stamp:
                return None
            self._stamp = stamp  # said once, if it is no good
            renewed = self._read()
        except (OSError, ValueError) as error:
            log.warning("renewed certificate not taken", certificate=str(self.certificate), error=str(error))
            return None
        log.info("renewed certificate taken", certificate=str(self.certificate))
        return renewed

    def _read(self) -> grpc.ServerCertificateConfiguration:
        chain, key = self.certificate.read_bytes(), self.key.read_bytes()
        _check_pair(chain, key)
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def _stamp_of_files(self) -> Stamp:
        return tuple(part for path in (self.certificate, self.key) for part in _stamp_of(path))


def _stamp_of(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _check_pair(chain: bytes, key: bytes) -> None:
    """Raise ValueError unless the key is that of the chain's first certificate."""
    public = x509.load_pem_x509_certificate(chain).public_key()
    private = serialization.load_pem_private_key(key, password=None)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != private.public_key().public_bytes(*form):
        raise ValueError("the key is that of another certificate")
