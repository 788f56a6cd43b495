"""A source that grows, and annotation instead of filtering, as a client meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from longhaul.common.v1 import resource_pb2
from longhaul_core.errors import FailedPrecondition
from longhaul_core.rpc.client import rpc_errors

from tests.integration.ingest.support import PROJECT, PROSE, Client, source, spec


def write(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.txt").write_text(PROSE.format(number=number))


async def test_second_ingestion_takes_only_what_is_new(client: Client, tmp_path: Path) -> None:
    grows, still = tmp_path / "grows", tmp_path / "still"
    write(grows, 1, 2)
    write(still, 9)
    sources = (source("grows", "TEXT", grows), source("still", "TEXT", still))
    await client.run("first", spec(*sources))
    with pytest.raises(FailedPrecondition, match="has a file that is new"), rpc_errors():
        await client.create("none", spec(*sources, continues=[f"{PROJECT}/datasets/first"]))
    write(grows, 3)
    (grows / "1.txt").write_text(PROSE.format(number=11))
    await client.run("second", spec(*sources, continues=[f"{PROJECT}/datasets/first"]))
    write(grows, 4)
    done = await client.run("third", spec(*sources, continues=[f"{PROJECT}/datasets/second"]))

    assert done.status.state == resource_pb2.JOB_STATE_SUCCEEDED
    assert [row["url"] for row in await client.rows("first")] == ["1.txt", "2.txt", "9.txt"]
    assert [row["url"] for row in await client.rows("second")] == ["1.txt", "3.txt"]
    assert [row["url"] for row in await client.rows("third")] == ["4.txt"]
    with pytest.raises(FailedPrecondition, match="is not committed"), rpc_errors():
        await client.create("wrong", spec(*sources, continues=[f"{PROJECT}/datasets/nothing"]))


async def test_annotated_ingestion_keeps_everything_with_language_scores_and_notes(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    write(folder, 1)
    (folder / "2.txt").write_text("too short { to be kept, mail me at a@b.org")
    names = ["language", "pii", "gopher_quality", "c4"]
    await client.run("notes", spec(source("texts", "TEXT", folder), filters=names, annotate=True))
    rows = {row["url"]: row for row in await client.rows("notes")}

    assert set(rows) == {"1.txt", "2.txt"}
    assert rows["1.txt"]["language"] == "en"
    noted = dict(json.loads(rows["2.txt"]["annotations"]))
    assert {"pii.rewrite", "gopher_quality.min_words", "c4.curly_bracket"} <= set(noted)
    assert "a@b.org" in rows["2.txt"]["text"]
    assert json.loads(rows["2.txt"]["scores"]) == {"pii_email": 1}
