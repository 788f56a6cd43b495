"""Bad input, met through the command as a user meets it: one clear message, an exit code, nothing half-written."""

import gzip
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from installation import Installation, refused
from longhaul_client.local.ports import free_port_base
from recipes import recipe, write_documents, write_recipe

HTTP = "HTTP/1.1 {status}\r\nContent-Type: {mime}\r\n\r\n"


def warc(records: list[tuple[str, str, bytes]]) -> list[bytes]:
    """Return gzip members of WARC response records: (status line, content type, body) each."""
    members = []
    for index, (status, mime, body) in enumerate(records):
        payload = HTTP.format(status=status, mime=mime).encode() + body
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{index:012d}>\r\n"
            f"WARC-Target-URI: http://example.org/{index}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        members.append(gzip.compress(head.encode() + payload + b"\r\n\r\n"))
    return members


def html(words: int, seed: int = 0) -> bytes:
    text = " ".join(f"The man said that this is sentence number {seed} {index}." for index in range(words // 8))
    return f"<html><body><main><p>{text}</p></main></body></html>".encode()


def run(installation: Installation, folder: Path, document: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    return installation.longhaul("run", str(write_recipe(folder / "recipe.yaml", document)), *arguments)


def test_unknown_key_names_the_nearest_and_the_line(installation: Installation, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: docs\nsources: [{name: a, kind: text, path: x}]\ntraining:\n  stepz: 3\n")
    done = installation.longhaul("run", str(path))
    refused(done, 6, "recipe.yaml:4: unknown key 'training.stepz'; did you mean 'steps'?")


def test_missing_source_is_named(installation: Installation, tmp_path: Path):
    done = run(installation, tmp_path, recipe("missing-source", tmp_path / "absent"))
    refused(done, 3, str(tmp_path / "absent"))


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root reads everything")
def test_unreadable_source_is_named(installation: Installation, tmp_path: Path):
    folder = write_documents(tmp_path / "docs", documents=2)
    (folder / "document-0000.txt").chmod(0)
    done = run(installation, tmp_path, recipe("unreadable-source", folder))
    refused(done, 8, "document-0000.txt", "cannot be read")


def test_source_without_documents_is_named(installation: Installation, tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "empty.txt").touch()
    done = run(installation, tmp_path, recipe("empty-source", tmp_path / "docs"))
    refused(done, 1, "docs", "all 1 records", "empty_body")


def test_truncated_gzip_member_is_named(installation: Installation, tmp_path: Path):
    members = warc([("200 OK", "text/html", html(400, seed)) for seed in range(3)])
    path = tmp_path / "cut.warc.gz"
    path.write_bytes(b"".join(members)[: -len(members[-1]) // 2])
    document = recipe("cut-warc", path, kind="warc", cleaning={"filters": [], "extraction": "fast"})
    done = run(installation, tmp_path, document, "--detach")
    assert done.returncode == 0, done.stderr
    status = wait_for_dataset(installation, "cut-warc")["ingestion"]["status"]
    assert int(status["documents_kept"]) == 2, "what came before the damage must be read"
    assert any("cut.warc.gz" in damage for damage in status["damages"]), status
    ends = sum(int(status[f"documents_{end}"]) for end in ("kept", "dropped", "failed"))
    assert ends == int(status["documents_read"]) == 3
    installation.longhaul("runs", "cancel", "cut-warc")


def test_crawl_of_failures_is_counted_and_refused(installation: Installation, tmp_path: Path):
    records = [
        ("404 Not Found", "text/html", html(400)),
        ("200 OK", "text/html", b""),
        ("200 OK", "image/png", b"\x89PNG\r\n"),
        ("200 OK", "text/html; charset=no-such-charset", html(400, 1)),
        ("200 OK", "text/plain", b"short"),
    ]
    path = tmp_path / "bad.warc.gz"
    path.write_bytes(b"".join(warc(records)))
    done = run(installation, tmp_path, recipe("bad-crawl", path, kind="warc"))
    assert done.returncode == 1, done.stdout
    shown = installation.json("runs", "list")
    assert all(item["status"]["state"] != "TRAINING_RUN_STATE_RUNNING" for item in shown)
    with installation.client() as client:
        from longhaul.ingest.v1 import ingestion_pb2

        request = ingestion_pb2.GetIngestionRequest(name="projects/default/ingestions/bad-crawl")
        status = client.ingestions.GetIngestion(request).status
    assert status.documents_read == status.documents_kept + status.documents_dropped + status.documents_failed
    assert status.documents_read == len(records)


def test_binary_file_among_text_is_counted_and_the_rest_read(installation: Installation, tmp_path: Path):
    folder = write_documents(tmp_path / "docs", documents=40)
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 40)
    done = run(installation, tmp_path, recipe("binary-among-text", folder), "--detach")
    assert done.returncode == 0, done.stderr
    dataset = wait_for_dataset(installation, "binary-among-text")
    status = dataset["ingestion"]["status"]
    assert int(status["documents_failed"]) == 1
    assert int(status["documents_kept"]) == 40
    installation.longhaul("runs", "cancel", "binary-among-text")


def wait_for_dataset(installation: Installation, name: str) -> dict:
    from longhaul.ingest.v1 import dataset_pb2

    with installation.client() as client:
        request = dataset_pb2.WatchDatasetsRequest(parent="projects/default", name=f"projects/default/datasets/{name}")
        for response in client.datasets.WatchDatasets(request, timeout=60):
            if response.dataset.documents:
                break
    return installation.json("datasets", "show", name)


def test_all_documents_filtered_names_the_rules(installation: Installation, tmp_path: Path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.txt").write_text(f"too short {index}")
    done = run(installation, tmp_path, recipe("all-filtered", folder))
    refused(done, 1, "all 5 records were filtered away", "gopher_")


def test_vocabulary_larger_than_the_data_gives(installation: Installation, tmp_path: Path, documents: Path):
    done = run(installation, tmp_path, recipe("huge-vocabulary", documents, tokenizer={"vocabulary_size": 500_000}))
    refused(done, 1, "500000", "vocabulary_size")


def test_sequence_longer_than_the_token_set(installation: Installation, tmp_path: Path, documents: Path):
    data = {"sequence_length": 1 << 22, "global_batch_size": 2, "micro_batch_size": 1}
    training = {"steps": 20, "schedule": {"warmup_steps": 4}, "data": data}
    done = run(installation, tmp_path, recipe("long-sequence", documents, training=training))
    refused(done, 1, f"A sequence has {1 << 22} tokens", "holds only")


def test_malformed_evaluation_file_names_the_line(installation: Installation, tmp_path: Path, documents: Path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1", "context": "a b", "choices": ["c", "d"], "gold": 0}\n{"id": "2", broken\n')
    corpus = {"evaluation_tasks": {"bits_per_byte_documents": 4, "cloze_questions": 4, "files": [str(path)]}}
    done = run(installation, tmp_path, recipe("bad-questions", documents, corpus=corpus))
    refused(done, 1, "questions.jsonl", "line 2")


def test_changed_recipe_is_refused_with_the_difference(installation: Installation, tmp_path: Path, documents: Path):
    first = recipe("changed", documents)
    assert run(installation, tmp_path, first, "--detach").returncode == 0
    second = {**first, "model": {**first["model"], "layers": 3}}
    done = run(installation, tmp_path, second, "--detach")
    refused(done, 4, "layers", "2 -> 3", "--name")
    assert run(installation, tmp_path, second, "--detach", "--name", "changed-again").returncode == 0
    runs = {item["metadata"]["name"].rpartition("/")[2] for item in installation.json("runs", "list")}
    assert {"changed", "changed-again"} <= runs
    datasets = [item for item in runs if item == "changed-again-data"]
    assert datasets == []
    for name in ("changed", "changed-again"):
        assert installation.longhaul("runs", "cancel", name).returncode == 0


def test_port_taken_names_the_address(tmp_path: Path):
    base = free_port_base()
    with socket.create_server(("127.0.0.1", base + 3)):
        done = Installation(tmp_path).longhaul("up", "--port-base", str(base))
    refused(done, 7, f"127.0.0.1:{base + 3}", "--port-base")
    assert not (tmp_path / "objects").exists()


def test_folder_of_another_up_is_refused(installation: Installation):
    refused(
        installation.longhaul("up", "--nodes", "2"), 7, "in use by another `longhaul up`", str(installation.data_dir)
    )


def test_up_again_keeps_what_runs(installation: Installation):
    before = installation.json("status")
    assert installation.json("up")["already_running"] is True
    assert installation.json("status") == before


def test_damaged_database_is_named(tmp_path: Path):
    broken = Installation(tmp_path)
    broken.up()
    broken.down()
    path = tmp_path / "ingest" / "ingest.sqlite3"
    content = bytearray(path.read_bytes())
    content[4096:8192] = os.urandom(4096)
    path.write_bytes(content)
    try:
        done = broken.longhaul("up")
        refused(done, 5, "ingest", str(path))
    finally:
        broken.down()


def test_missing_resource_is_named(installation: Installation):
    refused(installation.longhaul("runs", "show", "no-such-run"), 3, "no-such-run")


def test_no_services_says_what_to_do(tmp_path: Path):
    refused(Installation(tmp_path).longhaul("runs", "list"), 7, "longhaul up")


def test_wrong_option_is_a_usage_error(installation: Installation):
    done = installation.longhaul("runs", "list", "--limt", "3")
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_help_of_every_command_has_an_example():
    text = subprocess.run(
        [sys.executable, "-m", "longhaul_client", "--help"], capture_output=True, text=True, check=True
    )
    assert "longhaul up" in text.stdout
