"""Composes one epoch of one rank: data, group, model, restored state, loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from longhaul_core.errors import InvalidArgument
from longhaul_core.failpoints import Failpoints
from longhaul_core.ids import fingerprint
from longhaul_core.logging import get_logger
from longhaul_core.manifests import Manifest, read_manifest
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.recipe import Packing, TrainerConfig
from pydantic import ValidationError

from longhaul_trainer.checkpoint.journal import JournalingReporter, MetricJournal
from longhaul_trainer.checkpoint.part_set import PartSet
from longhaul_trainer.checkpoint.peer_tier import Peer, PeerTier
from longhaul_trainer.checkpoint.points import SavePoint
from longhaul_trainer.checkpoint.receipts import Receipts
from longhaul_trainer.checkpoint.restore import (
    MODEL_PART,
    OPTIMIZER_PART,
    read_trainer_state,
    restore_slices,
)
from longhaul_trainer.checkpoint.saver import Saver
from longhaul_trainer.checkpoint.slices import model_slices, optimizer_slices
from longhaul_trainer.checkpoint.trainer_state import Lineage, RandomState, TrainerState
from longhaul_trainer.data.loader import Loader
from longhaul_trainer.data.packing import PackedStream
from longhaul_trainer.data.samples import SampleOrder
from longhaul_trainer.data.stages import mixture_stages
from longhaul_trainer.data.token_set import open_token_set
from longhaul_trainer.loop.control import Control
from longhaul_trainer.loop.drills import planted
from longhaul_trainer.loop.measurements import model_figures
from longhaul_trainer.loop.micro_batch import find_micro_batch
from longhaul_trainer.loop.report import Reporter
from longhaul_trainer.loop.step import Stepper
from longhaul_trainer.loop.throughput import make_throughput
from longhaul_trainer.loop.trackers import Trackers, open_trackers
from longhaul_trainer.loop.training import Training
from longhaul_trainer.loop.validation import Validation
from longhaul_trainer.model import DecoderShape
from longhaul_trainer.optimizer.update import Update
from longhaul_trainer.parallel.gate import check_initial_parameters
from longhaul_trainer.parallel.grid import make_grid
from longhaul_trainer.parallel.group import RankGroup
from longhaul_trainer.parallel.sharding import build_model
from longhaul_trainer.version import code_version
from longhaul_trainer.wire import Assignment
from longhaul_trainer.worker.compiled import CompiledFiles, compiled_folder
from longhaul_trainer.worker.environment import ENVIRONMENT_FILE, describe_environment, environment_document
from longhaul_trainer.worker.listener import ReportingListener
from longhaul_trainer.worker.restoration import Restoration
from longhaul_trainer.worker.start import load_huggingface, shared, source_manifest

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
        self._compiled: CompiledFiles | None = None
        self._earlier_micro_batch = 0
        if assignment.rank == 0:
            self._journal = MetricJournal(self.store, assignment.project, assignment.run, assignment.epoch)
            reporter = JournalingReporter(reporter, self._journal)
        self.reporter = reporter
        self.drill = planted(assignment)

    def prepare(self, join: Callable[[], RankGroup]) -> Training:
        """Opens the data, joins the other ranks, builds the model and restores what the epoch begins with.

        Data and sizes are checked first, so that what can never work fails at once and on every rank.
        """
        cache, bound = Path(self.assignment.scratch_dir) / "tokens", self.config.data.cache_bytes
        self.token_set = open_token_set(self.store, self.assignment.token_set_manifest_key, cache, bound)
        orders, loader, validation = self._open_data()
        shape = DecoderShape.resolve(self.config, self.token_set.extra.vocabulary_size)
        self.group = join()
        if self.config.runtime.compile:
            self._compiled = CompiledFiles(compiled_folder(self.assignment.scratch_dir), self.group.device)
        grid = make_grid(self.group, self.config.layout, tied=shape.tied_embeddings)
        self.built = build_model(shape, self.config, grid)
        self.update = Update(self.built.model, self.config.optimizer)
        self.restoration = Restoration(
            self.assignment, self.store, self.group, self.built.model, self.update, self.reporter, self._meet_peers()
        )
        if self.assignment.resume_manifest_key:
            state = self._resume()
            saved_position = state.position
        else:
            self.drill.spoil(self.built.model)
            check_initial_parameters(self.built.model, self.group)
            state, saved_position = self._start(shape), -1
        if self.group.rank == 0:
            text = f"The model has {shape.parameters:,} parameters"
            self.reporter.event("MODEL_BUILT", "START", text, model_figures(shape))
        stepper = Stepper(self.built, self.update, self.config, grid)
        state = self._settle_micro_batch(stepper, state)
        return Training(
            config=self.config,
            grid=grid,
            built=self.built,
            stepper=stepper,
            orders=orders,
            loader=loader,
            validation=validation,
            saver=self._make_saver(),
            reporter=self.reporter,
            control=self.control,
            throughput=make_throughput(shape, self.config, self.group),
            history=self.restoration,
            trackers=self._open_trackers(),
            state=state,
            saved_position=saved_position,
            drill=self.drill,
        )

    def _meet_peers(self) -> PeerTier | None:
        """The agents of the epoch's ranks, as far as the run has them hold parts for one another."""
        if not self.config.checkpoint.peer_memory_bytes:
            return None
        assignment = self.assignment
        own = Peer(assignment.node, assignment.keeper_address, assignment.keeper_secret.get_secret_value())
        told = self.group.gather_documents(own.to_document())
        return PeerTier([Peer.of(document) for document in told], self.group.rank)

    def _settle_micro_batch(self, stepper: Stepper, state: TrainerState) -> TrainerState:
        """Finds the micro-batch where none is given; a run that goes on in the same layout keeps what it had."""
        if self.config.data.micro_batch_size:
            return state
        size = self._earlier_micro_batch
        if not size:
            layout = self.config.check_world_size(self.assignment.world_size)
            size = find_micro_batch(stepper, self.config, self.group, layout.data_parallel)
            self._tell("MICRO_BATCH_FOUND", "MEMORY", f"{size} sequences at once fit into a rank's memory")
        data = self.config.data.model_copy(update={"micro_batch_size": size})
        self.config = self.config.model_copy(update={"data": data})
        return state.model_copy(update={"config": self.config})

    def _open_data(self) -> tuple[list[SampleOrder], Loader, Validation]:
        layout = self.config.check_world_size(self.assignment.world_size)
        rank, ranks = layout.data_rank(self.assignment.rank), layout.data_parallel
        orders = [self._open_order(stage) for stage in range(len(self.config.data.context_stages) + 1)]
        loader = Loader(orders, rank=rank, ranks=ranks, delay=self.drill.delay)
        held_out = self.token_set.streams("valid", sorted(self.token_set.extra.sources))
        return orders, loader, Validation(held_out, self.config, rank=rank, ranks=ranks)

    def _open_order(self, stage: int) -> SampleOrder:
        """The order of one context stage; each draws anew, by a seed of its own."""
        data = self.config.data_of_stage(stage)
        mixture = self.token_set.mixture(data.mixture)
        later = [self.token_set.mixture(change.mixture) for change in data.mixture_stages]
        sources = sorted({source for weights in (mixture, *later) for source in weights})
        streams = self.token_set.streams("train", sources)
        packed = data.packing is Packing.BEST_FIT
        order = SampleOrder(
            [PackedStream(stream, data.sequence_length) for stream in streams] if packed else streams,
            [mixture.get(source, 0.0) for source in sources],
            stages=mixture_stages(self.config, stage, sources, later),
            sequence_length=data.sequence_length,
            seed=data.shuffle_seed + stage,
            document_masking=data.document_masking,
            shuffled=self.drill.shuffles,
        )
        steps = range(1, self.config.steps + 1)
        samples = sum(self.config.global_batch_at(step) for step in steps if self.config.stage_at(step) == stage)
        order.require_epochs(samples, data.maximum_epochs)
        return order

    def _lineage(self) -> Lineage:
        runtime = self.config.runtime
        return Lineage(
            config_digest=fingerprint(self.config.model_dump(mode="json")),
            token_set=self.token_set.manifest.name,
            token_set_digest=self.token_set.manifest.digest,
            tokenizer_key=self.token_set.extra.tokenizer.key,
            tokenizer_digest=self.token_set.extra.tokenizer.digest,
            eos_id=self.token_set.extra.eos_id,
            code_version=code_version(),
            torch_version=torch.__version__,
            world_size=self.group.size,
            threads_per_worker=runtime.threads_per_worker,
            device=self.group.device.type,
            environment=describe_environment(self.assignment.image) if self.group.rank == 0 else {},
            parent=self.assignment.resume_checkpoint,
        )

    def _initial_state(self, shape: DecoderShape) -> TrainerState:
        return TrainerState(
            step=0,
            sample_cursor=0,
            tokens=0,
            epoch=self.assignment.epoch,
            random=RandomState(seed=self.config.seed),
            source_epochs={},
            lineage=self._lineage(),
            shape=shape.to_document(),
            config=self.config,
        )

    def _open_trackers(self) -> Trackers:
        if self.group.rank:
            return Trackers({})
        return open_trackers(self.config.metrics, run=self.assignment.run, folder=Path(self.assignment.scratch_dir))

    def _start(self, shape: DecoderShape) -> TrainerState:
        """The state before the first step: random values, those of another run, or those of a published model."""
        start, state = self.config.start, self._initial_state(shape)
        if start.huggingface:
            load_huggingface(self.store, start, shape, model_slices(self.built.model))
            self._tell("STARTED_FROM", "HUGGINGFACE", f"Weights of {start.huggingface}")
        return self._fork(state) if start.checkpoint else state

    def _fork(self, state: TrainerState) -> TrainerState:
        """Takes over what the two runs have in common; the parent is recorded."""
        start = self.config.start
        manifest = source_manifest(self.store, start)
        self._restore_compiled(manifest)
        wanted = {MODEL_PART: model_slices(self.built.model)}
        if start.keep_optimizer:
            wanted[OPTIMIZER_PART] = optimizer_slices(self.built.model, self.update)
        taken = fresh = 0
        for kind, slices in wanted.items():
            common = shared(self.store, manifest, kind, slices)
            restore_slices(self.store, manifest, kind, common)
            taken, fresh = taken + len(common), fresh + len(slices) - len(common)
        self._tell("STARTED_FROM", "FORK", f"{taken} tensors of {start.checkpoint}; {fresh} start anew")
        progress: dict[str, object] = {}
        if start.keep_progress:
            source = read_trainer_state(self.store, manifest)
            kept = ("step", "sample_cursor", "stage", "rewound_steps", "tokens", "anomalies")
            progress = {name: getattr(source, name) for name in kept}
        lineage = state.lineage.model_copy(update={"parent": start.checkpoint})
        return state.model_copy(update={**progress, "lineage": lineage})

    def _tell(self, kind: str, cause: str, message: str) -> None:
        if self.group.rank == 0:
            self.reporter.event(kind, cause, message, {})

    def _resume(self) -> TrainerState:
        manifest = read_manifest(self.store, self.assignment.resume_manifest_key)
        self._restore_compiled(manifest)
        state, lineage = self.restoration.resume(manifest), self._lineage()
        if state.lineage.world_size == self.group.size:
            self._earlier_micro_batch = state.config.data.micro_batch_size
        if state.lineage.token_set_digest != lineage.token_set_digest:
            _log.warning("token set differs from that of the checkpoint", step=state.step)
        return state.model_copy(update={"epoch": self.assignment.epoch, "lineage": lineage, "config": self.config})

    def _make_saver(self) -> Saver:
        rank, ranks, built = self.group.rank, self.group.size, self.built
        slices = {
            MODEL_PART: model_slices(built.model, copies=built.copies),
            OPTIMIZER_PART: optimizer_slices(built.model, self.update, copies=built.copies),
        }
        frozen = {name for name, parameter in built.model.named_parameters() if not parameter.requires_grad}
        sets = [PartSet(kind, held, rank=rank, ranks=ranks, frozen=frozen) for kind, held in slices.items()]
        return Saver(
            sets,
            self.store,
            Receipts(self.group.store),
            ReportingListener(self.reporter),
            rank=rank,
            ranks=ranks,
            catalogue=self.restoration.catalogue() if rank == 0 else None,
            near=self.restoration.near_tier(),
            peers=self.restoration.peers,
            failpoints=Failpoints.parse(self.assignment.failpoints, SavePoint),
            before_commit=self._journal.write if self._journal is not None else None,
            stored=self.restoration.stored,
            documents=self._documents if rank == 0 else dict,
        )

    def _documents(self) -> dict[str, bytes]:
        """What rank 0 keeps with each checkpoint beside the state."""
        found = {ENVIRONMENT_FILE: environment_document(self.assignment.image)}
        return {**found, **self._compiled.document()} if self._compiled is not None else found

    def _restore_compiled(self, manifest: Manifest) -> None:
        if self._compiled is not None and (files := self._compiled.restore(self.store, manifest)):
            self._tell("COMPILED_RESTORED", "RESUME", f"{files} compiled files of {manifest.name}")
