"""Makes the parts of a checkpoint from a model in Hugging Face's form: it can then be scored, continued, compared."""

from __future__ import annotations

import json

import torch
from longhaul_core.ids import fingerprint
from longhaul_core.manifests import Part, put_part
from longhaul_core.objects import ObjectStore
from longhaul_core.recipe import ModelConfig, TrainerConfig
from longhaul_core.tasks import ImportArguments, ImportedPart, ImportResult

from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.restore import MODEL_PART, part_file_name
from longhaul_trainer.checkpoint.slices import model_slices
from longhaul_trainer.checkpoint.trainer_state import TRAINER_STATE_FILE, Lineage, RandomState, TrainerState
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.tasks.settings import TaskSettings
from longhaul_trainer.version import code_version
from longhaul_trainer.worker.environment import describe_environment
from longhaul_trainer.worker.start import ModelFolder, fill

TOKENIZER_FILE = "tokenizer.json"


def run_import(settings: TaskSettings, store: ObjectStore) -> ImportResult:
    """Writes float32 weights, the state of a run that has made no step, and the tokenizer where there is one."""
    arguments = ImportArguments.model_validate_json(settings.task_arguments)
    files, prefix = ModelFolder(store, arguments.source), arguments.prefix.rstrip("/")
    shape = files.shape()
    parts = [put_part(store, f"{prefix}/{part_file_name(MODEL_PART, 0, 1)}", _weights(files, shape))]
    tokenizer = None
    if files.has(TOKENIZER_FILE):
        tokenizer = put_part(store, f"{prefix}/{TOKENIZER_FILE}", files.read(TOKENIZER_FILE))
        parts.append(tokenizer)
    state = _state(files, shape, tokenizer)
    parts.append(put_part(store, f"{prefix}/{TRAINER_STATE_FILE}", state.model_dump_json(indent=1).encode()))
    lineage = {
        **state.lineage.model_dump(exclude={"parent", "environment"}),
        "imported_from": arguments.source,
        "parameters": shape.parameters,
        "model": json.dumps(_section(shape)),
    }
    return ImportResult(
        parts=tuple(ImportedPart(key=part.key, size=part.size, digest=part.digest) for part in parts), lineage=lineage
    )


def _weights(files: ModelFolder, shape: DecoderShape) -> memoryview:
    with torch.device("meta"):
        model = Decoder(shape)
    model.to_empty(device="cpu")
    model.fill_buffers()
    slices = model_slices(model)
    fill(slices, files, shape)
    image = PartImage(part_file_name(MODEL_PART, 0, 1), slices)
    image.fill()
    return image.data


def _section(shape: DecoderShape) -> dict[str, object]:
    """The recipe's `model` section of this shape."""
    return {name: value for name, value in shape.to_document().items() if name in ModelConfig.model_fields}


def _state(files: ModelFolder, shape: DecoderShape, tokenizer: Part | None) -> TrainerState:
    config = TrainerConfig.model_validate(
        {"model": _section(shape), "data": {"sequence_length": shape.context_length}, "schedule": {"warmup_steps": 0}}
    )
    eos = files.configuration().get("eos_token_id")
    lineage = Lineage(
        config_digest=fingerprint(config.model_dump(mode="json")),
        token_set="",
        token_set_digest="",
        tokenizer_key=tokenizer.key if tokenizer else "",
        tokenizer_digest=tokenizer.digest if tokenizer else "",
        eos_id=int((eos[0] if isinstance(eos, list) else eos) or 0),
        code_version=code_version(),
        torch_version=torch.__version__,
        world_size=1,
        threads_per_worker=config.runtime.threads_per_worker,
        device="cpu",
        environment=describe_environment(),
    )
    return TrainerState(
        step=0,
        sample_cursor=0,
        tokens=0,
        epoch=1,
        random=RandomState(seed=config.seed),
        source_epochs={},
        lineage=lineage,
        shape=shape.to_document(),
        config=config,
    )
