"""Writes a committed checkpoint as bfloat16 safetensors with configuration and tokenizer of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from longhaul_core.manifests import put_part
from longhaul_core.objects import ObjectStore
from longhaul_core.tasks import ExportArguments, ExportResult
from safetensors.torch import save
from torch import Tensor

from longhaul_trainer.model.huggingface import huggingface_config, to_huggingface
from longhaul_trainer.tasks.loading import LoadedCheckpoint, load_checkpoint, read_tokenizer
from longhaul_trainer.tasks.settings import TaskSettings

LARGEST_FILE_BYTES = 5 << 30


def run_export(settings: TaskSettings, store: ObjectStore) -> ExportResult:
    """Writes all files below the prefix; the same checkpoint gives the same bytes."""
    arguments = ExportArguments.model_validate_json(settings.task_arguments)
    loaded = load_checkpoint(store, arguments.checkpoint, torch.device("cpu"))
    prefix = arguments.prefix.rstrip("/")
    parts = [put_part(store, f"{prefix}/{name}", data) for name, data in _files(loaded, store)]
    return ExportResult(checkpoint_digest=arguments.checkpoint.digest, files={part.key: part.digest for part in parts})


def _files(loaded: LoadedCheckpoint, store: ObjectStore) -> Iterator[tuple[str, bytes]]:
    lineage, shape = loaded.state.lineage, loaded.shape
    state = to_huggingface(loaded.model.state_dict(), shape)
    yield from _weights({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()})
    yield "config.json", _json(huggingface_config(shape, eos_id=lineage.eos_id, dtype="bfloat16"))
    generation = {"bos_token_id": lineage.eos_id, "eos_token_id": lineage.eos_id, "do_sample": False}
    yield "generation_config.json", _json(generation)
    if not lineage.tokenizer_key:
        return
    tokenizer = read_tokenizer(store, lineage.tokenizer_key, lineage.tokenizer_digest)
    yield "tokenizer.json", tokenizer
    yield "tokenizer_config.json", _json(_tokenizer_config(tokenizer, lineage.eos_id, shape.context_length))


def _weights(state: Mapping[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    """One file, or several with an index where one would be too large."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if groups[-1] and size + tensor.nbytes > LARGEST_FILE_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        yield "model.safetensors", save(groups[0], metadata={"format": "pt"})
        return
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    for file, group in zip(names, groups, strict=True):
        yield file, save(group, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in state.values())},
        "weight_map": {name: file for file, group in zip(names, groups, strict=True) for name in group},
    }
    yield "model.safetensors.index.json", _json(index)


def _tokenizer_config(tokenizer: bytes, eos_id: int, context_length: int) -> dict[str, object]:
    added = json.loads(tokenizer).get("added_tokens", [])
    token = next((entry["content"] for entry in added if entry["id"] == eos_id), None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": token,
        "eos_token": token,
        "clean_up_tokenization_spaces": False,
    }


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()
