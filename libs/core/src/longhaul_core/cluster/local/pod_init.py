"""First process of a local pod: `python -I -S pod_init.py NODE_PID COMMAND...`.

It plays the kernel's part in a container: all processes of the pod are its descendants, and when the command ends, or
the node process dies however it dies, or SIGUSR2 comes, every one of them is killed. SIGTERM goes to the command. Its
exit code is the command's, 128 + n after signal n. Imports only the standard library's light modules, since every pod
pays for its start.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}


def descendants(root: int) -> list[int]:
    """Process ids below `root`, by one pass over /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 (pathlib would triple the start)
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def kill_all() -> None:
    """Kill and reap every descendant; orphans come to this process, so the loop ends when none is left."""
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def start(command: list[str]) -> int:
    """Start the command as a child that dies with this process."""
    prctl = ctypes.CDLL(None).prctl
    init = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != init:
        os._exit(128 + signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot execute {command[0]}: {error.strerror}\n".encode())
        os._exit(EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE)


def reap(main: int) -> int | None:
    """Reap what has ended; the main child's wait status once it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == main:
            return status
        if pid == 0:
            return None


def run(node_pid: int, command: list[str]) -> int:
    """Run the command to its end and return the exit code of the pod."""
    prctl = ctypes.CDLL(None).prctl
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    prctl(PR_SET_PDEATHSIG, signal.SIGUSR2)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != node_pid:
        return 128 + signal.SIGKILL
    main = start(command)
    while True:
        received = signal.sigwait(SIGNALS)
        if received == signal.SIGUSR2:
            kill_all()
            return 128 + signal.SIGKILL
        if received in (signal.SIGTERM, signal.SIGINT):
            os.kill(main, signal.SIGTERM)
            continue
        status = reap(main)
        if status is not None:
            kill_all()
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
