"""What an API server asks a kubelet for a container's output: GET /containerLogs/NAMESPACE/POD/CONTAINER."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from longhaul_core.certificates.authority import create_authority, issue

ADDRESS = "127.0.0.1"


@dataclass(slots=True)
class LogServer:
    """Serves the output of pods from a folder, over TLS with a certificate of its own, as kubelets do."""

    folder: Path
    port: int = 0
    asked: list[str] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, ADDRESS, 0, ssl_context=self._tls())
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        self.asked.append(pod)
        lines = (self.folder / f"{pod}.log").read_bytes().splitlines(keepends=True)
        if (tail := request.query.get("tailLines")) is not None:
            lines = lines[-int(tail) :]
        return web.Response(body=b"".join(lines), content_type="text/plain")

    def _tls(self) -> ssl.SSLContext:
        today = datetime.now(UTC)
        pair = issue(create_authority("kubelets", today), [ADDRESS], today)
        certificate, key = self.folder / "kubelets.pem", self.folder / "kubelets.key"
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context
