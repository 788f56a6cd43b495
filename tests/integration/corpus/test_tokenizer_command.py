"""`longhaul tokenizers`: candidates trained, imported, listed, shown and compared through the command."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul.corpus.v1 import tokenizer_pb2
from longhaul_client.local.layout import SERVICES, Layout, UpOptions
from longhaul_core.rpc.client import connect
from longhaul_core.rpc.server import running_service
from longhaul_corpus.app import build

from tests.integration.corpus.conftest import Place
from tests.integration.corpus.support import DATASET, ENDED, PARENT, Client, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SVG = "{http://www.w3.org/2000/svg}"


class Desk:
    """The command, against services at given addresses."""

    def __init__(self, folder: Path, corpus: str, ingest: str) -> None:
        self._folder = folder
        addresses = {**dict.fromkeys(SERVICES, "127.0.0.1:1"), "corpus": corpus, "ingest": ingest}
        Layout(folder, UpOptions(), addresses, {}, "127.0.0.1:1").save()

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run the command; returns its output, or what it complained of where it is to fail."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "longhaul_client", "--data-dir", str(self._folder), "--project", "demo", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=self._folder,
            env={**plain, "HOME": str(self._folder), "COLUMNS": "120"},
        )  # fmt: skip
        output, complaint = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code, complaint.decode()
        return (complaint if code else output).decode()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run("tokenizers", *arguments, "--json"))


async def trained(client: Client, name: str) -> tokenizer_pb2.Tokenizer:
    request = tokenizer_pb2.GetTokenizerRequest(name=f"{PARENT}/tokenizers/{name}")
    done = await until(lambda: client.tokenizers.GetTokenizer(request), lambda found: found.status.state in ENDED)
    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED, done.status.reason
    return done


async def test_candidates_are_trained_imported_and_compared_by_the_command(place: Place, tmp_path: Path) -> None:
    async with running_service(place.settings(), build) as address, connect(address) as channel:
        client = Client(channel, place.store)
        desk = Desk(tmp_path, address, place.ingest_address)
        for name, entries in (("small", 512), ("large", 1024)):
            told = await desk.run("tokenizers", "train", name, "--dataset", "docs", "--vocabulary-size", str(entries))
            assert f"longhaul tokenizers show {name}" in told
        made = [await trained(client, name) for name in ("small", "large")]
        (tmp_path / "tokenizer.json").write_bytes(place.store.get(made[0].status.key))
        await desk.run("tokenizers", "import", "theirs", "tokenizer.json")
        assert (await trained(client, "theirs")).status.digest == made[0].status.digest

        listed = await desk.run("tokenizers", "list")
        assert [line.split()[:3] for line in listed.splitlines()[1:]] == [
            ["theirs", "succeeded", "512"], ["large", "succeeded", "1024"], ["small", "succeeded", "512"],
        ]  # fmt: skip
        assert "total" in await desk.run("tokenizers", "show", "large")

        arguments = ("compare", "small", "large", "theirs", "--dataset", DATASET, "--documents", "40")
        table = await desk.run("tokenizers", *arguments, "--plot", "plot.svg")
        assert [line.split()[:2] for line in table.splitlines()[1:] if line.strip()] == [
            [sample, name] for sample in ("guide", "library", "total") for name in ("small", "large", "theirs")
        ]
        scores = await desk.json(*arguments)
        _check(scores, (tmp_path / "plot.svg").read_text(), table)

        complaint = await desk.run("tokenizers", "import", "none", "no-such.json", code=6)
        assert "no-such.json cannot be read: No such file" in complaint


def _check(scores: dict[str, list[dict[str, Any]]], plot: str, table: str) -> None:
    """A larger vocabulary splits fewer words; the same tokenizer has the same figures; the plot shows each."""
    for small, large, theirs in zip(*(scores[name] for name in ("small", "large", "theirs")), strict=True):
        assert small == theirs
        assert small["fertility"] > large["fertility"] > 1
        assert small["continued_word_proportion"] > large["continued_word_proportion"] > 0
        assert small["bytes_per_token"] < large["bytes_per_token"]
        assert f"{large['fertility']:.3f}" in table
    drawn = ElementTree.fromstring(plot)
    texts = [element.text for element in drawn.iter(f"{SVG}text")]
    bars = [element for element in drawn.iter(f"{SVG}rect") if element.get("x") == "170"]
    assert len(bars) == 3 * sum(map(len, scores.values()))
    for field in ("fertility", "continued_word_proportion", "bytes_per_token"):
        assert all(f"{score[field]:.3f}" in texts for found in scores.values() for score in found)
    assert {element.text for element in drawn.iter(f"{SVG}tspan")} == {f"■ {name}" for name in scores}
