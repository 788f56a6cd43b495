"""The local installation: layout on disk, ports, the lock of a data folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from longhaul_client.local import processes
from longhaul_client.local.layout import UpOptions, layout_file, load_layout, new_layout
from longhaul_client.local.lock import hold_lock, lock_holder
from longhaul_client.local.ports import check_ports, free_port_base
from longhaul_core.errors import FailedPrecondition

HOLDER = """
import sys, time
from pathlib import Path
from longhaul_client.local.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_layout_reads_back_equal(tmp_path: Path):
    layout = new_layout(tmp_path, UpOptions(nodes=3)).with_process("ingest", processes.mark_of(os.getpid()))
    layout.save()
    assert load_layout(tmp_path) == layout


def test_layout_of_an_untouched_folder_is_none(tmp_path: Path):
    assert load_layout(tmp_path) is None


def test_damaged_layout_is_refused_with_its_path(tmp_path: Path):
    layout_file(tmp_path).write_text("{")
    with pytest.raises(FailedPrecondition, match=r"up\.json is damaged"):
        load_layout(tmp_path)


def test_taken_port_is_named_with_its_owner(tmp_path: Path):
    layout = new_layout(tmp_path, UpOptions(port_base=free_port_base()))
    host, _, port = layout.addresses["corpus"].rpartition(":")
    with socket.create_server((host, int(port))), pytest.raises(FailedPrecondition) as raised:
        check_ports(layout)
    assert raised.value.reason == "PORT_TAKEN"
    assert f"{layout.addresses['corpus']}, wanted for corpus" in raised.value.message
    check_ports(layout)


def test_lock_is_refused_to_a_second_and_free_after_kill(tmp_path: Path):
    path = tmp_path / "up.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert lock_holder(path) == holder.pid
        with pytest.raises(FailedPrecondition, match=f"process {holder.pid}"), hold_lock(path):
            pass
        holder.kill()
    assert lock_holder(path) is None
    with hold_lock(path):
        assert lock_holder(path) == os.getpid()


def test_mark_does_not_stand_for_a_later_process():
    mark = processes.mark_of(os.getpid())
    assert mark is not None
    assert processes.is_alive(mark)
    assert not processes.is_alive(processes.ProcessMark(mark.pid, mark.create_time - 1))
    assert not processes.is_alive(None)
