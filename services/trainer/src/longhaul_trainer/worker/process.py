"""One worker: an assignment, its training, an exit code."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from typing import NoReturn

import torch
from longhaul_core.logging import get_logger

from longhaul_trainer.exit_codes import ExitCode
from longhaul_trainer.loop.control import Control
from longhaul_trainer.parallel.group import RankGroup, choose_device, open_group
from longhaul_trainer.wire import AgentMessage, Assignment, Phase, Request
from longhaul_trainer.worker.channel import Channel
from longhaul_trainer.worker.checkup import check_pod
from longhaul_trainer.worker.compiled import compiled_folder
from longhaul_trainer.worker.failure import exit_code_of
from longhaul_trainer.worker.session import Session, parse_config

_log = get_logger(__name__)


def run_worker(channel_descriptor: int) -> NoReturn:
    """Waits for an assignment, carries it out, and ends the process with its code.

    SIGUSR1 writes the stacks of all threads to the log.
    """
    control = Control()
    signal.signal(signal.SIGTERM, lambda *_: control.request_stop())
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    channel = Channel(channel_descriptor)
    message = channel.receive()
    if not isinstance(message, Assignment):
        _leave(ExitCode.DONE)
    _leave(_run(message, channel, control))


def _run(assignment: Assignment, channel: Channel, control: Control) -> ExitCode:
    channel.phase(Phase.STARTING, 0)
    channel.listen(lambda message: _obey(message, control))
    try:
        if assignment.program == "check":
            check_pod(assignment, channel)
        else:
            _train(assignment, channel, control)
    except BaseException as error:
        code = exit_code_of(error)
        expected = code in (ExitCode.PREEMPTED, ExitCode.RETRY)
        _log.error("worker ends", code=int(code), reason=code.name, error=str(error), exc_info=not expected)
        channel.failed(f"{type(error).__name__}: {error}")
        return code
    return ExitCode.DONE


def _train(assignment: Assignment, channel: Channel, control: Control) -> None:
    config = parse_config(assignment)
    torch.set_num_threads(config.runtime.threads_per_worker)
    device = choose_device(config.runtime.device.value, assignment.local_rank)
    if config.runtime.deterministic:
        be_deterministic()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled_folder(assignment.scratch_dir))

    def join() -> RankGroup:
        return open_group(
            assignment.rank,
            assignment.world_size,
            device,
            rendezvous=assignment.rendezvous,
            listen_descriptor=channel.take_descriptor() if assignment.listens else None,
        )

    training = Session(assignment, config, channel, control).prepare(join)
    training.run()
    if assignment.rank == 0:
        channel.finished(training.state.step)


def be_deterministic() -> None:
    """Only kernels that give the same bits each time; memory that is written anyway need not be filled first."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _obey(message: AgentMessage | None, control: Control) -> None:
    if message is None:
        _leave(ExitCode.RETRY)
    if isinstance(message, Request):
        (control.request_stop if message.stop_after else control.request_checkpoint)()


def _leave(code: ExitCode) -> NoReturn:
    """Ends at once: threads of collectives and uploads must not hold up a repair."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
