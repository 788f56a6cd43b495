"""XIDs in the kernel's log, counted since the machine started.

The log's ring buffer is read from its beginning, so that an agent that was restarted counts the same as before; what
the ring has lost meanwhile is a counter that fell, which readers take for a reset.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KMSG = Path("/dev/kmsg")
RECORD_BYTES = 8192
_XID = re.compile(r"NVRM: Xid \(PCI:(?P<pci>[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+(?:\.[0-9])?)\): (?P<code>[0-9]+)")


@dataclass(slots=True)
class KernelLog:
    """Counts XIDs by PCI address and code. `path` is /dev/kmsg, or a file that a log daemon appends to."""

    path: Path = KMSG
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    error: str = ""
    _descriptor: int | None = None
    _inode: int = 0
    _rest: bytes = b""

    def read(self) -> None:
        """Take what is new; never waits. What goes wrong is said in `error` and tried again with the next call."""
        try:
            self._open()
            for line in self._lines():
                for match in _XID.finditer(line):
                    self.counts[match["pci"].lower(), int(match["code"])] += 1
            self.error = ""
        except OSError as fault:
            self.error = f"{self.path}: {fault.strerror or fault}"
            self.close()

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._rest = None, b""

    def _open(self) -> None:
        inode = self.path.stat().st_ino
        if self._descriptor is not None and inode != self._inode:
            self.close()  # the daemon rotated it
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            self._inode = inode

    def _lines(self) -> Iterator[str]:
        assert self._descriptor is not None
        while True:
            try:
                data = os.read(self._descriptor, RECORD_BYTES)
            except OSError as fault:
                if fault.errno == errno.EAGAIN:
                    return
                if fault.errno == errno.EPIPE:
                    continue  # the ring went over records that were not read
                raise
            if not data:
                return
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")


def exposition(log: KernelLog) -> str:
    """The counts in the text format."""
    lines = [
        "# HELP LONGHAUL_KERNEL_LOG_UP Whether the kernel's log can be read.",
        "# TYPE LONGHAUL_KERNEL_LOG_UP gauge",
    ]
    if log.error:
        return "\n".join([*lines, "LONGHAUL_KERNEL_LOG_UNREADABLE 1"]) + "\n"
    lines += [
        "LONGHAUL_KERNEL_LOG_UP 1",
        "# HELP LONGHAUL_KERNEL_XID_TOTAL XIDs in the kernel's log since the machine started.",
        "# TYPE LONGHAUL_KERNEL_XID_TOTAL counter",
    ]
    for (pci, code), count in sorted(log.counts.items()):
        lines.append(f'LONGHAUL_KERNEL_XID_TOTAL{{pci_bus_id="{pci}",xid="{code}"}} {count}')
    return "\n".join(lines) + "\n"
