"""Composes one epoch of one rank: data, group, model, restored state, loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from longhaul_core.errors import DataLoss, InvalidArgument, LonghaulError
from longhaul_core.ids import fingerprint
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.recipe import TrainerConfig
from pydantic import ValidationError

from longhaul_trainer.checkpoint.catalogue import CheckpointService
from longhaul_trainer.checkpoint.journal import JournalingReporter, MetricJournal
from longhaul_trainer.checkpoint.part_file import PartImage
from longhaul_trainer.checkpoint.receipts import Receipts
from longhaul_trainer.checkpoint.restore import (
    MODEL_PART,
    OPTIMIZER_PART,
    part_file_name,
    read_trainer_state,
    restore_slices,
)
from longhaul_trainer.checkpoint.saver import Saver
from longhaul_trainer.checkpoint.slices import model_slices, optimizer_slices, prepare_optimizer
from longhaul_trainer.checkpoint.trainer_state import Lineage, RandomState, TrainerState
from longhaul_trainer.data.loader import Loader
from longhaul_trainer.data.samples import SampleOrder
from longhaul_trainer.data.token_set import TokenSet, open_token_set
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.loop.stops import AttemptFailed
from longhaul_trainer.loop.throughput import make_throughput
from longhaul_trainer.loop.training import Training
from longhaul_trainer.loop.validation import Validation
from longhaul_trainer.model import Decoder, DecoderShape
from longhaul_trainer.optimizer.adamw import make_adamw
from longhaul_trainer.parallel.gate import check_initial_parameters
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.parallel.sharding import build_model
from longhaul_trainer.version import code_version
from longhaul_trainer.wire import Assignment, Phase
from longhaul_trainer.worker.listener import ReportingListener

_log = get_logger(__name__)


def parse_config(assignment: Assignment) -> TrainerConfig:
    """The trainer configuration of an assignment, checked against its world size.

    Raises:
        InvalidArgument: with what is wrong.
    """
    try:
        config = TrainerConfig.model_validate(assignment.trainer_config)
        config.check_world_size(assignment.world_size)
    except ValidationError as error:
        violations = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
        raise InvalidArgument(f"The trainer configuration is wrong: {violations}", violations=violations) from error
    except ValueError as error:
        raise InvalidArgument(f"The layout does not fit: {error}", violations=[("layout", str(error))]) from error
    return config


class Session:
    """One rank's epoch, from assignment to the loop."""

    def __init__(self, assignment: Assignment, config: TrainerConfig, reporter: Reporter, control: Control) -> None:
        self.assignment = assignment
        self.config = config
        self.control = control
        self.store: ObjectStore = open_store(assignment.object_store_url)
        self._journal: MetricJournal | None = None
        if assignment.rank == 0:
            self._journal = MetricJournal(self.store, assignment.project, assignment.run, assignment.epoch)
            reporter = JournalingReporter(reporter, self._journal)
        self.reporter = reporter

    def prepare(self, join: Callable[[], RankGroup]) -> Training:
        """Opens the data, joins the other ranks, builds the model and restores what the epoch begins with.

        Data and sizes are checked first, so that what can never work fails at once and on every rank.
        """
        cache = Path(self.assignment.scratch_dir) / "tokens"
        token_set = open_token_set(self.store, self.assignment.token_set_manifest_key, cache)
        order, loader, validation = self._open_data(token_set)
        shape = DecoderShape.resolve(self.config, token_set.extra.vocabulary_size)
        self.group = join()
        model = build_model(shape, self.config, self.group)
        optimizer = make_adamw(model, self.config.optimizer)
        prepare_optimizer(model, optimizer)
        if self.assignment.resume_manifest_key:
            state = self._restore(token_set, model, optimizer)
            saved_step = state.step
        else:
            check_initial_parameters(model, self.group)
            state, saved_step = self._initial_state(token_set, shape), -1
        return Training(
            config=self.config,
            group=self.group,
            model=model,
            stepper=Stepper(model, optimizer, self.config, self.group),
            order=order,
            loader=loader,
            validation=validation,
            saver=self._make_saver(model, optimizer),
            reporter=self.reporter,
            control=self.control,
            throughput=make_throughput(shape, self.config, self.group),
            state=state,
            saved_step=saved_step,
        )

    def _open_data(self, token_set: TokenSet) -> tuple[SampleOrder, Loader, Validation]:
        data, rank, ranks = self.config.data, self.assignment.rank, self.assignment.world_size
        mixture = token_set.mixture(data.mixture)
        order = SampleOrder(
            token_set.streams("train", list(mixture)),
            list(mixture.values()),
            sequence_length=data.sequence_length,
            seed=data.shuffle_seed,
            document_masking=data.document_masking,
        )
        order.require_epochs(self.config.steps * data.global_batch_size, data.maximum_epochs)
        loader = Loader(order, global_batch=data.global_batch_size, rank=rank, ranks=ranks)
        held_out = token_set.streams("valid", sorted(token_set.extra.sources))
        return order, loader, Validation(held_out, self.config, rank=rank, ranks=ranks)

    def _lineage(self, token_set: TokenSet) -> Lineage:
        runtime = self.config.runtime
        return Lineage(
            config_digest=fingerprint(self.config.model_dump(mode="json")),
            token_set=token_set.manifest.name,
            token_set_digest=token_set.manifest.digest,
            tokenizer_key=token_set.extra.tokenizer.key,
            tokenizer_digest=token_set.extra.tokenizer.digest,
            eos_id=token_set.extra.eos_id,
            code_version=code_version(),
            torch_version=torch.__version__,
            world_size=self.group.size,
            threads_per_worker=runtime.threads_per_worker,
            device=self.group.device.type,
            parent=self.assignment.resume_checkpoint,
        )

    def _initial_state(self, token_set: TokenSet, shape: DecoderShape) -> TrainerState:
        return TrainerState(
            step=0,
            sample_cursor=0,
            tokens=0,
            epoch=self.assignment.epoch,
            random=RandomState(seed=self.config.seed),
            source_epochs={},
            lineage=self._lineage(token_set),
            shape=asdict(shape),
            config=self.config,
        )

    def _restore(self, token_set: TokenSet, model: Decoder, optimizer: torch.optim.Optimizer) -> TrainerState:
        self.reporter.phase(Phase.RESTORING, 0)
        begun = time.monotonic()
        manifest = read_manifest(self.store, self.assignment.resume_manifest_key)
        try:
            state = self._load(manifest, model, optimizer)
        except DataLoss as error:
            raise self._damaged(error) from error
        lineage = self._lineage(token_set)
        if state.lineage.token_set_digest != lineage.token_set_digest:
            _log.warning("token set differs from that of the checkpoint", checkpoint=manifest.name)
        _log.info("checkpoint restored", checkpoint=manifest.name, step=state.step)
        if self.group.rank == 0:
            data: dict[str, str | float] = {"step": state.step, "seconds": round(time.monotonic() - begun, 3)}
            self.reporter.event("RESTORED", "RESUME", f"Resumed from {manifest.name}", data)
        return state.model_copy(update={"epoch": self.assignment.epoch, "lineage": lineage, "config": self.config})

    def _load(self, manifest: Manifest, model: Decoder, optimizer: torch.optim.Optimizer) -> TrainerState:
        state = read_trainer_state(self.store, manifest)
        for kind, slices in (
            (MODEL_PART, model_slices(model)),
            (OPTIMIZER_PART, optimizer_slices(model, optimizer)),
        ):
            own = part_file_name(kind, self.group.rank, self.group.size)
            restore_slices(self.store, manifest, kind, slices, prefer=own)
        return state

    def _damaged(self, error: DataLoss) -> AttemptFailed:
        """Has the service look at the checkpoint, so that the next attempt takes an intact one."""
        self.reporter.event("CHECKPOINT_DAMAGED", error.reason, str(error), dict(error.metadata))
        try:
            self._catalogue().report_damage(self.assignment.resume_checkpoint)
        except LonghaulError as unreported:
            _log.warning("damage not reported", error=str(unreported))
        return AttemptFailed(str(error), reason=error.reason, metadata=error.metadata)

    def _make_saver(self, model: Decoder, optimizer: torch.optim.Optimizer) -> Saver:
        rank, ranks = self.group.rank, self.group.size
        images = [
            PartImage(part_file_name(MODEL_PART, rank, ranks), model_slices(model)),
            PartImage(part_file_name(OPTIMIZER_PART, rank, ranks), optimizer_slices(model, optimizer)),
        ]
        return Saver(
            images,
            self.store,
            Receipts(self.group.connect_store()),
            ReportingListener(self.reporter),
            rank=rank,
            ranks=ranks,
            catalogue=self._catalogue() if rank == 0 else None,
            before_commit=self._journal.write if self._journal is not None else None,
        )

    def _catalogue(self) -> CheckpointService:
        assignment = self.assignment
        return CheckpointService(
            assignment.checkpoint_address, assignment.run_name, assignment.token.get_secret_value()
        )
