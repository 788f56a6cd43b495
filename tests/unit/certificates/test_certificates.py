"""The authority that a chart's hook makes: its certificates are good for TLS, and what exists is never replaced."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from longhaul_core.certificates.__main__ import main
from longhaul_core.certificates.authority import KeyPair, create_authority, issue
from longhaul_core.rpc.client import connect

NOW = datetime.now(UTC)
HOST = "longhaul-ingest.lab.svc"


class SecretsApi(http.server.BaseHTTPRequestHandler):
    """The paths of the API that the hook uses, with the status codes of Kubernetes."""

    stored: dict[str, dict[str, object]]
    refuse = 0

    def do_GET(self) -> None:
        self._answer(200, self.stored.get(self._name()))

    def do_DELETE(self) -> None:
        self._answer(200, self.stored.pop(self._name(), None))

    def do_POST(self) -> None:
        body = self._body()
        name = body["metadata"]["name"]
        if name in self.stored:
            self._answer(409, {"reason": "AlreadyExists"})
            return
        self.stored[name] = body
        self._answer(201, body)

    def do_PUT(self) -> None:
        self.stored[self._name()] = self._body()
        self._answer(200, self.stored[self._name()])

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _name(self) -> str:
        assert self.path.startswith("/api/v1/namespaces/lab/secrets/")
        return self.path.rpartition("/")[2]

    def _body(self) -> dict[str, dict[str, str]]:
        assert self.headers["Authorization"] == "Bearer secret-token"
        loaded: dict[str, dict[str, str]] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return loaded

    def _answer(self, code: int, document: object) -> None:
        code = self.refuse or (code if document is not None else 404)
        payload = json.dumps(document or {"reason": "refused"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[type[SecretsApi], list[str]]]:
    (tmp_path / "token").write_text("secret-token\n")
    handler = type("Api", (SecretsApi,), {"stored": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--server", f"http://127.0.0.1:{server.server_port}", "--account", str(tmp_path)]
        yield handler, ["--namespace", "lab", "--authority", "ca", *options]
        server.shutdown()


def pair_in(handler: type[SecretsApi], name: str) -> KeyPair:
    data = handler.stored[name]["data"]
    assert isinstance(data, dict)
    return KeyPair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))


def test_ensure_on_an_empty_namespace_makes_authority_and_certificate(api: tuple[type[SecretsApi], list[str]]) -> None:
    handler, options = api
    assert main(["ensure", *options, "--certificate", f"ingest={HOST},localhost", "--label", "a=b"]) == 0
    assert set(handler.stored) == {"ca", "ingest"}
    assert handler.stored["ingest"]["type"] == "kubernetes.io/tls"
    assert handler.stored["ingest"]["metadata"]["labels"] == {"a": "b"}  # type: ignore[index]
    made = pair_in(handler, "ingest")
    assert made.issued_by(pair_in(handler, "ca"))
    assert made.names() == {HOST, "localhost"}


def test_ensure_again_keeps_everything(api: tuple[type[SecretsApi], list[str]]) -> None:
    handler, options = api
    arguments = ["ensure", *options, "--certificate", f"ingest={HOST}"]
    main(arguments)
    before = json.dumps(handler.stored, sort_keys=True)
    assert main(arguments) == 0
    assert json.dumps(handler.stored, sort_keys=True) == before


def test_ensure_with_a_new_name_renews_the_certificate_and_keeps_the_authority(
    api: tuple[type[SecretsApi], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    handler, options = api
    main(["ensure", *options, "--certificate", f"ingest={HOST}"])
    authority = pair_in(handler, "ca")
    assert main(["ensure", *options, "--certificate", f"ingest={HOST},other.example"]) == 0
    assert "ingest: renewed" in capsys.readouterr().out
    assert pair_in(handler, "ca") == authority
    assert pair_in(handler, "ingest").names() == {HOST, "other.example"}


def test_remove_leaves_nothing(api: tuple[type[SecretsApi], list[str]]) -> None:
    handler, options = api
    main(["ensure", *options, "--certificate", f"ingest={HOST}"])
    assert main(["remove", *options, "--certificate", "ingest"]) == 0
    assert handler.stored == {}


def test_refusal_names_the_namespace_and_what_to_look_at(
    api: tuple[type[SecretsApi], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    handler, options = api
    handler.refuse = 403
    assert main(["ensure", *options]) == 78
    error = capsys.readouterr().err
    assert "namespace lab" in error
    assert "Role of the certificates hook" in error


def test_certificate_near_its_end_or_of_another_authority_is_not_good() -> None:
    authority = create_authority("longhaul", NOW)
    fresh = issue(authority, [HOST], NOW)
    assert not fresh.needs_renewal(NOW)
    assert issue(authority, [HOST], NOW - timedelta(days=350)).needs_renewal(NOW)
    assert not fresh.issued_by(create_authority("longhaul", NOW))


def test_grpc_trusts_a_certificate_only_through_its_authority() -> None:
    authority = create_authority("longhaul", NOW)
    pair = issue(authority, ["localhost", "127.0.0.1"], NOW)
    server = grpc.server(thread_pool())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
    server.start()
    try:
        assert reaches(port, authority.certificate)
        assert not reaches(port, create_authority("other", NOW).certificate)
    finally:
        server.stop(None)


def thread_pool() -> object:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


def reaches(port: int, roots: bytes) -> bool:
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(roots)) as channel:
        try:
            channel.unary_unary("/none/None")(b"", timeout=20)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNIMPLEMENTED)  # type: ignore[attr-defined]
    return True


async def test_channel_asks_for_the_name_that_it_is_told() -> None:
    authority = create_authority("longhaul", NOW)
    pair = issue(authority, ["longhaul-training-pods.lab.svc"], NOW)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
    await server.start()
    codes = []
    for name in ("longhaul-training-pods.lab.svc", ""):
        async with connect(f"127.0.0.1:{port}", tls_ca=authority.certificate, tls_name=name) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/none/None")(b"", timeout=20)
        codes.append(caught.value.code())
    await server.stop(None)
    assert codes == [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE]
