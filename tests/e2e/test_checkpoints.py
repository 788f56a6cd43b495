"""Checkpoints through the command, as a user handles them: import, export, compare, pin, fork, reproduce."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from installation import Installation, refused
from longhaul_core.objects import open_store
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in Hugging Face's form, every parameter random and of few enough bits for bfloat16."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 384}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(0.2).add(0.1).bfloat16())
    model.save_pretrained(folder)
    return folder


def fetched(installation: Installation, prefix: str, folder: Path) -> Path:
    """The files below a prefix of the installation's object store."""
    store = open_store(f"file://{installation.data_dir / 'objects'}")
    for info in store.list(prefix):
        (folder / info.key.rpartition("/")[2]).write_bytes(store.get(info.key))
    return folder


def logits(folder: Path) -> torch.Tensor:
    tokens = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(1))
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=tokens).logits


def test_imported_model_verifies_and_is_exported_with_the_same_logits(
    installation: Installation, published: Path, tmp_path: Path
):
    imported = installation.json("checkpoints", "import", str(published), "--name", "published")
    identifier = imported["checkpoint"]["metadata"]["name"]
    assert identifier.endswith("/published-step-00000000-e1")
    assert imported["recipe"]["model"]["hidden_size"] == 32
    assert installation.json("checkpoints", "verify", identifier)["intact"] is True
    exported = installation.json("checkpoints", "export", identifier, "--wait")
    again = fetched(installation, exported["prefix"], tmp_path)
    assert torch.equal(logits(again), logits(published))
    again = installation.json("checkpoints", "import", str(published), "--name", "published")
    assert again["checkpoint"]["digest"] == imported["checkpoint"]["digest"]


def test_import_of_what_is_no_model_and_of_a_taken_name_is_refused(
    installation: Installation, published: Path, finished: Path, tmp_path: Path
):
    refused(installation.longhaul("checkpoints", "import", str(tmp_path), "--name", "empty"), 7, "config.json")
    refused(installation.longhaul("checkpoints", "import", str(published), "--name", "whole"), 4, "taken")


def test_checkpoint_is_compared_pinned_and_spared_by_collection(installation: Installation, finished: Path):
    newest, oldest = installation.json("checkpoints", "list", "--run", "whole")
    names = [item["metadata"]["name"] for item in (oldest, newest)]
    difference = installation.json("checkpoints", "diff", *names)
    assert any("model-" in part for part in difference["changed"])
    assert installation.longhaul("checkpoints", "pin", names[0]).returncode == 0
    rounds = installation.json("checkpoints", "gc", "whole", "--dry-run")
    assert {d["checkpoint"]: d["reason"] for d in rounds["decisions"]}[names[0]].startswith("pinned")
    assert installation.longhaul("checkpoints", "unpin", names[0]).returncode == 0


def losses(installation: Installation, run: str) -> dict[int, float]:
    return {int(row["step"]): row["loss"] for row in installation.json("runs", "metrics", run)}


@dataclass(frozen=True)
class Descendants:
    """Runs that go on from a checkpoint: submitted together, since each waits more than it computes."""

    reproduced: dict[str, Any]
    folder: Path
    forked: dict[str, Any]


@pytest.fixture(scope="module")
def descendants(
    installation: Installation, published: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> Descendants:
    folder = tmp_path_factory.mktemp("descendants")
    first = installation.json("checkpoints", "list", "--run", "whole")[-1]["metadata"]["name"]
    again = installation.json("checkpoints", "reproduce", first, "--folder", str(folder / "again"), "--start")
    changes = ["--set", "lr=0.0001", "--set", "steps=14", "--name", "gentle"]
    forked = installation.json("runs", "fork", "whole", "--step", "10", *changes)
    imported = installation.json("checkpoints", "import", str(published), "--name", "published")
    document = yaml.safe_load(finished.read_text())
    document["model"] = imported["recipe"]["model"]
    document["training"] |= imported["recipe"]["training"] | {"steps": 6}
    document["resources"] = {"nodes": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    done = installation.longhaul("run", str(folder / "recipe.yaml"), "--name", "continued")
    assert done.returncode == 0, done.stdout + done.stderr
    return Descendants(again, folder, forked)


def test_reproduced_run_computes_the_same_steps_bit_for_bit(installation: Installation, descendants: Descendants):
    done, folder = descendants.reproduced, descendants.folder / "again"
    assert done["different"] == {}
    assert {"torch", "lock_digest", "packages_digest", "threads_per_worker"} <= done["recorded"].keys()
    record = json.loads((folder / "environment.json").read_text())
    assert f"torch=={done['recorded']['torch'].partition('+')[0]}" in (folder / "requirements.txt").read_text()
    assert not any("TOKEN" in name for name in record["variables"])
    assert installation.longhaul("runs", "watch", done["run"]).returncode == 0
    again, before = losses(installation, done["run"]), losses(installation, "whole")
    assert sorted(again) == list(range(11, 21))
    assert again == {step: before[step] for step in again}


def test_fork_goes_on_from_a_checkpoint_with_a_part_swapped(installation: Installation, descendants: Descendants):
    assert descendants.forked["metadata"]["name"].endswith("/gentle")
    assert installation.longhaul("runs", "watch", "gentle").returncode == 0
    forked, before = losses(installation, "gentle"), losses(installation, "whole")
    assert sorted(forked) == [11, 12, 13, 14]
    assert forked[11] == before[11]
    assert forked[13] != before[13]
    newest = installation.json("checkpoints", "list", "--run", "gentle")[0]
    parent = installation.json("checkpoints", "list", "--run", "whole")[-1]
    assert newest["parent"] == parent["metadata"]["name"]
    assert parent["pinned"] is True


def test_imported_model_is_continued(installation: Installation, descendants: Descendants):
    assert sorted(losses(installation, "continued")) == [1, 2, 3, 4, 5, 6]
    events = installation.json("runs", "events", "continued")
    assert any(event["type"] == "STARTED_FROM" and event["cause"] == "FORK" for event in events)
