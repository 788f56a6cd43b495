"""What a run begins with instead of random values: a checkpoint of another run, or a model of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from longhaul_core.errors import DataLoss, InvalidArgument, NotFound
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore
from longhaul_core.recipe import StartConfig
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from longhaul_trainer.checkpoint.restore import stored_names
from longhaul_trainer.checkpoint.slices import TensorSlice
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.model.huggingface import from_huggingface, shape_from_huggingface

_FREE = ("context_length", "init_std", "init", "dropout", "rope_theta", "yarn_factor", "yarn_original_context")
"""Choices in which a continued model may differ: they change no parameter."""


def source_manifest(store: ObjectStore, start: StartConfig) -> Manifest:
    """The checkpoint that a run was forked from.

    Raises:
        DataLoss: another manifest lies under the key.
    """
    manifest = read_manifest(store, start.manifest_key)
    if start.manifest_digest and manifest.digest != start.manifest_digest:
        raise DataLoss(
            f"{start.checkpoint} has the digest {manifest.digest}, not {start.manifest_digest}",
            reason="MANIFEST_DIFFERS",
            metadata={"key": start.manifest_key},
            action="fork again from the present checkpoint",
        )
    return manifest


def shared(store: ObjectStore, manifest: Manifest, kind: str, slices: list[TensorSlice]) -> list[TensorSlice]:
    """Those of the wanted tensors that the checkpoint has with the same shape: parts that were swapped start anew."""
    there = stored_names(store, manifest, kind)
    return [one for one in slices if there.get(one.name) == one.shape]


@torch.no_grad()
def load_huggingface(store: ObjectStore, start: StartConfig, shape: DecoderShape, slices: list[TensorSlice]) -> None:
    """Fills the slices from a model of Hugging Face.

    Raises:
        InvalidArgument: its configuration is not that of the run's model.
        NotFound: a file or a tensor is missing.
        DataLoss: a file is no safetensors file.
    """
    files = ModelFolder(store, start.huggingface)
    _require_same(files.shape(), shape, start.huggingface)
    fill(slices, files, shape)


@torch.no_grad()
def fill(slices: Sequence[TensorSlice], files: ModelFolder, shape: DecoderShape) -> None:
    """Copies each slice's box from the folder's tensors."""
    state = from_huggingface(dict(_weights(files)), shape)
    for wanted in slices:
        if wanted.name.endswith((".gate.load", ".gate.bias")):
            continue
        if wanted.name not in state:
            raise NotFound(f"{files.place} has no tensor for {wanted.name}", reason="TENSOR_MISSING")
        if tuple(state[wanted.name].shape) != wanted.shape:
            found = tuple(state[wanted.name].shape)
            raise InvalidArgument(f"{files.place}: {wanted.name} has the shape {found}, not {wanted.shape}")
        box = tuple(slice(o, o + n) for o, n in zip(wanted.offsets, wanted.local.shape, strict=True))
        wanted.local.copy_(state[wanted.name][box])


def _weights(files: ModelFolder) -> Iterator[tuple[str, Tensor]]:
    if files.has("model.safetensors.index.json"):
        index = json.loads(files.read("model.safetensors.index.json"))
        names = sorted(set(index["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        try:
            yield from load(files.read(name)).items()
        except SafetensorError as error:
            raise DataLoss(f"{name} is no safetensors file: {error}", reason="PART_MALFORMED") from error


def _require_same(theirs: DecoderShape, ours: DecoderShape, where: str) -> None:
    mine, other = ours.to_document(), theirs.to_document()
    different = {name: (mine[name], other[name]) for name in mine if name not in _FREE and mine[name] != other[name]}
    moe = "moe"
    if moe in different and not ours.moe.experts and not theirs.moe.experts:
        del different[moe]
    if "hybrid" in different and not ours.has_mamba and not theirs.has_mamba:
        del different["hybrid"]
    if different:
        raise InvalidArgument(
            f"The model in {where} is not the one of the recipe: "
            + "; ".join(f"{name} is {b!r} there, {a!r} in the recipe" for name, (a, b) in different.items()),
            reason="HUGGINGFACE_MODEL_DIFFERS",
            violations=[(f"model.{name}", f"must be {b!r}") for name, (_, b) in different.items()],
        )


class ModelFolder:
    """A model in Hugging Face's form: files below a local folder, or below a prefix of the object store."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store, self._place = store, place.rstrip("/")
        self.place = place
        self._local = Path(place) if Path(place).is_dir() else None

    def configuration(self) -> dict[str, Any]:
        """Its config.json.

        Raises:
            NotFound: there is none.
            InvalidArgument: it is no JSON object.
        """
        if not self.has("config.json"):
            raise NotFound(
                f"{self.place} has no config.json",
                reason="FILE_MISSING",
                action="name a folder that the training pods see, or a prefix of the object store",
            )
        try:
            return dict(json.loads(self.read("config.json")))
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"{self.place}/config.json is no JSON object: {error}") from error

    def shape(self) -> DecoderShape:
        """The decoder that its config.json describes."""
        return shape_from_huggingface(self.configuration())

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self._local / name).is_file() if self._local else self._store.exists(f"{self._place}/{name}")

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises NotFound."""
        if self._local is None:
            return self._store.get(f"{self._place}/{name}")
        if not self.has(name):
            raise NotFound(f"{self._local} has no file {name}", reason="FILE_MISSING")
        return (self._local / name).read_bytes()
