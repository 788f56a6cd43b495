"""The nursery: the process from which all workers of a pod are forked.

Importing torch costs seconds, a fork milliseconds. This process imports everything once, stays single-threaded, opens
no device, and becomes the parent of every worker of its pod; so a restart in place pays no import, however often.
It dies with the agent, and the workers die with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

import torch
from longhaul_core.logging import configure_logging, get_logger

from longhaul_trainer.exit_codes import ExitCode
from longhaul_trainer.nursery_wire import LARGEST_PACKET_BYTES, ORDER, Exited, Fork, Forked, Ready, Report
from longhaul_trainer.worker.lifeline import die_with_parent
from longhaul_trainer.worker.process import run_worker

_log = get_logger(__name__)


class Nursery:
    """Forks, kills and reaps workers as the agent says."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}
        self._wakeup, self._signalled = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signalled.setblocking(False)

    def serve(self) -> None:
        """Obeys until the agent closes its end."""
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        selector = selectors.DefaultSelector()
        for stream in (self._control, self._wakeup):
            selector.register(stream, selectors.EVENT_READ)
        self._report(Ready())
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._wakeup in ready:
                self._wakeup.recv(4096)
            self._reap()
            if self._control in ready and not self._obey():
                return

    def _obey(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, LARGEST_PACKET_BYTES, 2)
        if not packet:
            return False
        order = ORDER.validate_json(packet)
        if isinstance(order, Fork):
            self._fork(order.number, *descriptors)
            return True
        for process_id, number in self._children.items():
            if number == order.number:
                os.kill(process_id, signal.SIGKILL)
        return True

    def _fork(self, number: int, channel: int, output: int) -> None:
        parent = os.getpid()
        try:
            process_id = os.fork()
        except OSError as error:
            _log.error("worker not forked", error=str(error))
            self._report(Exited(number=number, code=ExitCode.OUT_OF_MEMORY))
            return
        finally:
            if os.getpid() == parent:
                os.close(channel)
                os.close(output)
        if process_id == 0:
            self._become_worker(parent, channel, output)
        self._children[process_id] = number
        self._report(Forked(number=number, process_id=process_id))

    def _become_worker(self, parent: int, channel: int, output: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for stream in (self._control, self._wakeup, self._signalled):
                stream.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            die_with_parent(parent)
            run_worker(channel)
        finally:
            os._exit(ExitCode.INTERNAL)

    def _reap(self) -> None:
        while self._children:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if process_id == 0:
                return
            number = self._children.pop(process_id)
            self._report(Exited(number=number, code=os.waitstatus_to_exitcode(status)))

    def _report(self, report: Report) -> None:
        self._control.send(report.model_dump_json().encode())


def serve(control: int) -> NoReturn:
    """Serves one agent over the socket with this descriptor."""
    configure_logging("trainer")
    torch.set_num_threads(1)
    try:
        Nursery(socket.socket(fileno=control)).serve()
    except OSError as error:
        _log.warning("agent is gone", error=str(error))
    sys.stderr.flush()
    os._exit(ExitCode.DONE)
