"""What only S3 stores have: probing, credentials, an endpoint that does not answer, a damaged byte on the server."""

import http.server
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from longhaul_core.errors import Aborted, DataLoss, FailedPrecondition, PermissionDenied, Unauthenticated, Unavailable
from longhaul_core.manifests import put_part, verify_part
from longhaul_core.objects import S3Location, open_store
from longhaul_core.objects.s3 import S3Store
from longhaul_core.objects.s3_client import connect

UPLOADER = """
import sys
from longhaul_core.objects import S3Location
from longhaul_core.objects.s3 import S3Store
location = S3Location(sys.argv[1], "team/", sys.argv[2], "us-east-1", secure=False)
with S3Store.open(location, part_bytes=5 << 20).open_write("kept") as out:
    while True:
        out.write(bytes(1 << 20))
        print(out.tell(), flush=True)
"""


def test_open_store_probes_conditional_writes_true_where_the_server_honours_them(moto_location: S3Location) -> None:
    store = open_store(
        f"s3://{moto_location.bucket}/team?endpoint={moto_location.endpoint}&region=us-east-1&secure=false"
    )
    assert isinstance(store, S3Store)
    assert store.conditional_writes
    assert list(connect(moto_location).list_objects(moto_location.bucket, recursive=True)) == []


def test_open_store_probes_conditional_writes_false_where_the_server_ignores_them(rclone_location: S3Location) -> None:
    assert not S3Store.open(rclone_location).conditional_writes


def test_stores_of_other_prefixes_do_not_see_each_other(moto_location: S3Location) -> None:
    one, other = S3Store.open(moto_location), S3Store.open(replace(moto_location, prefix="other/"))
    one.put("k", b"1")
    assert not other.exists("k")
    assert list(other.list()) == []
    assert [
        found.object_name for found in connect(moto_location).list_objects(moto_location.bucket, recursive=True)
    ] == ["team/k"]


def test_open_without_the_bucket_says_so(moto_location: S3Location) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        S3Store.open(replace(moto_location, bucket="no-such-bucket"))
    assert caught.value.reason == "BUCKET_NOT_FOUND"


def test_open_with_a_wrong_secret_is_denied(rclone_location: S3Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionDenied):
        S3Store.open(rclone_location)


SKEWED = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code>
<Message>The difference between the request time and the current time is too large.</Message></Error>"""


def test_open_with_a_wrong_clock_says_so(credentials: None) -> None:
    class Strict(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(SKEWED)))
            self.end_headers()
            self.wfile.write(SKEWED)

        do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strict) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        location = S3Location("bucket", "", f"127.0.0.1:{server.server_port}", "us-east-1", secure=False)
        with pytest.raises(FailedPrecondition, match="clock is wrong") as caught:
            S3Store.open(location)
        server.shutdown()
        thread.join()
    assert caught.value.reason == "CLOCK_SKEW"


def test_open_without_credentials_says_what_to_set(
    moto_location: S3Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(Unauthenticated) as caught:
        S3Store.open(moto_location)
    assert "AWS_ACCESS_KEY_ID" in caught.value.action


def test_a_server_that_does_not_answer_is_unavailable(credentials: None) -> None:
    with pytest.raises(Unavailable) as caught:
        S3Store.open(S3Location("bucket", "", "127.0.0.1:1", "us-east-1", secure=False))
    assert caught.value.reason == "OBJECT_STORE_UNAVAILABLE"


def test_list_and_delete_of_more_than_a_page_reach_all(rclone_location: S3Location) -> None:
    store = S3Store.open(rclone_location)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"many/{number:04}", b""), range(1010)))
    assert [info.key for info in store.list("many/")] == [f"many/{number:04}" for number in range(1010)]
    assert store.delete_prefix("many/") == 1010
    assert list(store.list()) == []


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_an_upload_killed_midway_leaves_nothing_visible(request: pytest.FixtureRequest, server: str) -> None:
    location = request.getfixturevalue(f"{server}_location")
    store = S3Store.open(location)
    store.put("kept", b"old")
    command = [sys.executable, "-c", UPLOADER, location.bucket, location.endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as uploader:
        assert uploader.stdout is not None
        while uploader.stdout.readline() != b"25165824\n":  # four parts of 5 MiB are on their way
            assert uploader.poll() is None
        uploader.kill()
    assert [info.key for info in store.list()] == ["kept"]
    assert store.get("kept") == b"old"


def test_an_object_replaced_under_its_reader_is_not_mixed(moto_location: S3Location) -> None:
    store = S3Store.open(moto_location)
    store.put("k", b"old" * 100)
    with store.open_read("k") as source:
        store.put("k", b"new" * 100)
        with pytest.raises(Aborted) as caught:
            source.read(3)
    assert caught.value.reason == "OBJECT_CHANGED"


def test_a_byte_changed_on_the_server_is_found_by_the_digest(rclone_location: S3Location, rclone_folder: Path) -> None:
    store = S3Store.open(rclone_location)
    part = put_part(store, "part.bin", bytes(100_000))
    verify_part(store, part)
    path = rclone_folder / rclone_location.bucket / "team" / "part.bin"
    damaged = bytearray(path.read_bytes())
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataLoss) as caught:
        verify_part(store, part)
    assert caught.value.reason == "PART_DIGEST_DIFFERS"
