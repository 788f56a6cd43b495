"""Loads a committed checkpoint as one whole model, without the ranks that wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from longhaul_core.digests import hash_bytes
from longhaul_core.errors import DataLoss
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore
from longhaul_core.tasks import ManifestReference

from longhaul_trainer.checkpoint.restore import MODEL_PART, read_trainer_state, restore_slices
from longhaul_trainer.checkpoint.slices import model_slices
from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.model import Decoder, DecoderShape


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A model in float32, ready to compute, and the state it was saved with."""

    model: Decoder
    state: TrainerState
    shape: DecoderShape
    manifest: Manifest


def read_referenced(store: ObjectStore, reference: ManifestReference) -> Manifest:
    """The manifest that is meant, and no other.

    Raises:
        NotFound: nothing is committed under the key.
        DataLoss: what is committed there has another digest.
    """
    manifest = read_manifest(store, reference.manifest_key)
    if manifest.digest != reference.digest:
        raise DataLoss(
            f"{reference.name} has the digest {manifest.digest}, not {reference.digest}",
            reason="MANIFEST_DIFFERS",
            metadata={"key": reference.manifest_key},
            action="ask for the task again with the present manifest",
        )
    return manifest


def load_checkpoint(store: ObjectStore, reference: ManifestReference, device: torch.device) -> LoadedCheckpoint:
    """Reads every model part, each verified by its digest."""
    manifest = read_referenced(store, reference)
    state = read_trainer_state(store, manifest)
    shape = DecoderShape.from_document(state.shape)
    with torch.device("meta"):
        model = Decoder(shape)
    model.to_empty(device=device)
    model.fill_buffers()
    restore_slices(store, manifest, MODEL_PART, model_slices(model))
    return LoadedCheckpoint(model.eval(), state, shape, manifest)


def read_tokenizer(store: ObjectStore, key: str, digest: str) -> bytes:
    """The tokenizer's file.

    Raises:
        DataLoss: it is not the one that the token set was made with.
    """
    data = store.get(key)
    if hash_bytes(data) != digest:
        raise DataLoss(
            f"Tokenizer {key} does not match its digest",
            reason="TOKENIZER_CHANGED",
            metadata={"key": key},
            action="restore the tokenizer or build the token set again",
        )
    return data
