from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from longhaul_core.manifests import read_manifest
from longhaul_core.objects import open_store
from longhaul_core.tasks import BurnInResult, ManifestReference, ScoreArguments, ScoreResult, ScoreSelection
from safetensors.torch import load
from trainer_harness import EOS, World, finish, start_workers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

RESULT_KEY = "projects/lab/results/one.json"


@pytest.fixture
def checkpoint(world: World) -> ManifestReference:
    finish(start_workers(world, 1))
    key = world.checkpoints.manifests[12]
    return ManifestReference(name="last", manifest_key=key, digest=read_manifest(open_store(world.url), key).digest)


def run_task(world: World, program: str, arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "LONGHAUL_TASK_ARGUMENTS": arguments,
        "LONGHAUL_TASK_RESULT_KEY": RESULT_KEY,
        "LONGHAUL_OBJECT_STORE_URL": world.url,
        "LONGHAUL_SCRATCH_DIR": str(world.folder / "task-scratch"),
        **more,
    }
    command = [sys.executable, "-m", "longhaul_trainer.tasks", program]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def reference_model(world: World, checkpoint: ManifestReference) -> LlamaForCausalLM:
    """transformers' model in float64 with the weights of the checkpoint's part."""
    store = open_store(world.url)
    parts = [part.key for part in read_manifest(store, checkpoint.manifest_key).parts]
    weights = load(store.get(next(key for key in parts if "/model-" in key)))
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0}, "rms_norm_eps": 1e-5}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **rope, max_position_embeddings=32))
    model.load_state_dict({f"model.{name}": tensor for name, tensor in weights.items()}, strict=False)
    return model.double().eval()


def bits_of(model: LlamaForCausalLM, tokens: list[int], context: int) -> float:
    """Bits of a text: disjoint chunks of predictions, each chunk with a full context where there is one."""
    stream, bits, predicted = [EOS, *tokens], 0.0, 0
    while predicted < len(tokens):
        count = min(context, len(tokens) - predicted)
        end = predicted + count + 1
        window = stream[max(0, end - 1 - context) : end]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([window[:-1]])).logits[0]
        chosen = logits.log_softmax(-1)[torch.arange(len(window) - 1), torch.tensor(window[1:])]
        bits -= float(chosen[-count:].sum()) / math.log(2)
        predicted += count
    return bits


def test_score_gives_the_bits_of_a_float64_reference_and_scores_every_cloze_item(
    world: World, checkpoint: ManifestReference
) -> None:
    store = open_store(world.url)
    token_set = read_manifest(store, world.token_set)
    arguments = ScoreArguments(
        checkpoint=checkpoint,
        token_set=ManifestReference(name="words", manifest_key=world.token_set, digest=token_set.digest),
        tasks=(ScoreSelection(task="bits_per_byte"), *(ScoreSelection(task="cloze", few_shot=n) for n in (0, 2))),
        batch_size=4,
    )
    done = run_task(world, "score", arguments.model_dump_json())
    assert done.returncode == 0, done.stderr
    result = ScoreResult.model_validate_json(store.get(RESULT_KEY))
    assert result.step == 12
    assert [(s.task, s.few_shot, s.metric) for s in result.scores] == [
        ("bits_per_byte", 0, "bits_per_byte"),
        ("cloze", 0, "acc_norm"),
        ("cloze", 0, "acc"),
        ("cloze", 2, "acc_norm"),
        ("cloze", 2, "acc"),
    ]
    model, rows = reference_model(world, checkpoint), store.get(task_key(token_set, "bits_per_byte")).splitlines()
    texts = {row["id"]: row["text"] for row in map(json.loads, rows)}
    for item in result.scores[0].items:
        tokens = [int(word[1:]) for word in texts[item.id].split()]
        assert item.value == pytest.approx(bits_of(model, tokens, 32), rel=1e-5)
        assert item.weight == len(texts[item.id].encode())
    assert all(len(score.items) == 10 and score.chance == 0.25 for score in result.scores[1:])
    assert [item.value for item in result.scores[1].items] == cloze_reference(model, store, token_set)


def task_key(token_set: Any, name: str) -> str:
    key: str = token_set.extra["eval_tasks"][name]["key"]
    return key


def cloze_reference(model: LlamaForCausalLM, store: Any, token_set: Any) -> list[float]:
    """Zero-shot accuracy by likelihood a character."""
    found = []
    for row in map(json.loads, store.get(task_key(token_set, "cloze")).splitlines()):
        scores = []
        for choice in row["choices"]:
            context, continuation = ([int(word[1:]) for word in text.split()] for text in (row["context"], choice))
            tokens = [EOS, *context, *continuation]
            with torch.no_grad():
                chances = model(input_ids=torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)
            chosen = chances[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
            scores.append(float(chosen[-len(continuation) :].sum()) / len(choice))
        found.append(float(int(np.argmax(scores)) == row["gold"]))
    return found


def test_score_of_a_damaged_checkpoint_is_refused_with_the_part(world: World, checkpoint: ManifestReference) -> None:
    store = open_store(world.url)
    part = next(p.key for p in read_manifest(store, checkpoint.manifest_key).parts if "/model-" in p.key)
    data = bytearray(store.get(part))
    data[-1] ^= 1
    store.put(part, bytes(data))
    arguments = {"checkpoint": checkpoint.model_dump(), "format": "huggingface", "prefix": "projects/lab/export"}
    done = run_task(world, "export", json.dumps(arguments))
    assert done.returncode == 65
    assert part in done.stderr
    assert not store.exists(RESULT_KEY)


def test_export_is_loaded_by_transformers_with_the_same_logits(
    world: World, checkpoint: ManifestReference, tmp_path: Path
) -> None:
    store = open_store(world.url)
    arguments = {"checkpoint": checkpoint.model_dump(), "format": "huggingface", "prefix": "projects/lab/export"}
    done = run_task(world, "export", json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    files = json.loads(store.get(RESULT_KEY))["files"]
    folder = tmp_path / "exported"
    folder.mkdir()
    for key in files:
        (folder / Path(key).name).write_bytes(store.get(key))
    exported = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = reference_model(world, checkpoint)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("w5 w22 w3 w60 w1", return_tensors="pt", add_special_tokens=False).input_ids
    assert tokens.tolist() == [[5, 22, 3, 60, 1]]
    with torch.no_grad():
        ours, theirs = exported(input_ids=tokens).logits, reference(input_ids=tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("gpus", [1, 2])
def test_burnin_on_a_cpu_measures_and_passes(world: World, gpus: int) -> None:
    arguments = json.dumps({"seconds": 0.4, "matrix_size": 128, "memory_bytes": 1 << 20})
    done = run_task(world, "burnin", arguments, LONGHAUL_GPUS=str(gpus))
    assert done.returncode == 0, done.stderr
    result = BurnInResult.model_validate_json(open_store(world.url).get(RESULT_KEY))
    assert (result.passed, result.device, result.gpus, result.failures) == (True, "cpu", gpus, ())
    of_device = {one.name for one in result.figures if one.gpu == gpus - 1}
    assert of_device == {"bf16_tflops", "memory_bandwidth", "host_to_device", "device_to_host"}
    assert ("all_reduce_bandwidth" in {one.name for one in result.figures}) is (gpus > 1)
    assert all(one.value > 0 for one in result.figures)
    assert result.memory_bytes_checked == gpus << 20


def test_burnin_below_its_least_figures_fails_and_says_which(world: World) -> None:
    arguments = {"seconds": 0.2, "matrix_size": 64, "memory_bytes": 1 << 16, "minimum_tflops": 1e6}
    done = run_task(world, "burnin", json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    result = BurnInResult.model_validate_json(open_store(world.url).get(RESULT_KEY))
    assert not result.passed
    assert "bf16_tflops of GPU 0" in result.failures[0]
