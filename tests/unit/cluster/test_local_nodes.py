"""Node processes: whose death takes what along, and what survives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from longhaul_core.cluster import DEFAULT_NAMESPACE, LocalCluster, PodPhase, PodReason, PodSpec
from longhaul_core.cluster.local.launch import running_nodes, start_node, stop_node
from longhaul_core.cluster.local.records import PID_ANNOTATION, Endpoint
from longhaul_core.cluster.local.store import Store
from longhaul_core.errors import FailedPrecondition, NotFound

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
NS = DEFAULT_NAMESPACE

TREE = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
orphan = subprocess.Popen(["sh", "-c", "setsid sleep 600 & echo $! > " + sys.argv[1] + ".orphan; exit 0"])
orphan.wait()
open(sys.argv[1] + ".tmp", "w").write(f"{os.getpid()} {child.pid} {open(sys.argv[1] + '.orphan').read()}")
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(600)
"""
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def process_tree(cluster: LocalCluster, eventually: Eventually, tmp_path: Path, name: str = "tree") -> list[int]:
    """Run a pod with a child in another session and an orphan; returns their ids, that of the command first."""
    path = tmp_path / f"{name}.pids"
    await cluster.create_pod(PodSpec(name=name, command=(sys.executable, "-c", TREE, str(path))))

    async def written() -> bool:
        return path.exists()

    await eventually(written)
    pids = [int(text) for text in path.read_text().split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    return pids


async def output(cluster: LocalCluster, name: str, **options: bool | int) -> bytes:
    return b"".join([piece async for piece in cluster.pod_logs(NS, name, **options)])


async def test_node_killed_takes_all_processes_of_its_pods_along(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually, tmp_path: Path
) -> None:
    node_pid = start_node(cluster_dir, "n0", gpus=1)
    pids = await process_tree(cluster, eventually, tmp_path)
    os.kill(node_pid, signal.SIGKILL)

    async def all_dead() -> bool:
        return not any(map(alive, pids))

    await eventually(all_dead)
    assert running_nodes(cluster_dir) == {}


async def test_pod_command_killed_takes_its_other_processes_along(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually, tmp_path: Path
) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    main, *others = await process_tree(cluster, eventually, tmp_path)
    os.kill(main, signal.SIGKILL)

    async def failed() -> bool:
        return (await cluster.get_pod(NS, "tree")).phase is PodPhase.FAILED

    await eventually(failed)
    assert not any(map(alive, others))
    assert (await cluster.get_pod(NS, "tree")).exit_code == 128 + signal.SIGKILL


async def test_pods_outlive_the_client_that_created_them(cluster: LocalCluster, cluster_dir: Path) -> None:
    code = """
import asyncio, os, signal, sys
from longhaul_core.cluster import PodSpec, open_cluster
from longhaul_core.cluster.local.launch import start_node
from pathlib import Path
start_node(Path(sys.argv[1]), "n0", gpus=1)
asyncio.run(open_cluster("local://" + sys.argv[1]).create_pod(PodSpec(name="p", command=("sleep", "600"))))
os.kill(os.getpid(), signal.SIGKILL)
"""
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(cluster_dir))
    assert await client.wait() == -signal.SIGKILL
    pod = await cluster.get_pod(NS, "p")
    assert pod.phase is PodPhase.RUNNING
    assert alive(int(pod.annotations[PID_ANNOTATION]))


def test_second_process_of_a_node_refused(cluster_dir: Path) -> None:
    pid = start_node(cluster_dir, "n0", gpus=1)
    with pytest.raises(FailedPrecondition) as caught:
        start_node(cluster_dir, "n0", gpus=1)
    assert "runs already" in Path(caught.value.metadata["log"]).read_text()
    assert running_nodes(cluster_dir) == {"n0": pid}


def test_node_with_bad_arguments_says_so(cluster_dir: Path) -> None:
    command = [sys.executable, "-m", "longhaul_core.cluster.local.node", "--cluster-dir", str(cluster_dir)]
    done = subprocess.run([*command, "--name", "n0", "--label", "oops"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr == "--label 'oops' is not KEY=VALUE\n"


async def test_node_stopped_ends_its_pods_gracefully(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually, tmp_path: Path
) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    pids = await process_tree(cluster, eventually, tmp_path)
    await asyncio.to_thread(stop_node, cluster_dir, "n0")
    assert not any(map(alive, pids))
    pod = await cluster.get_pod(NS, "tree")
    assert (pod.phase, pod.reason) == (PodPhase.FAILED, PodReason.NODE_SHUTDOWN)
    assert not (await cluster.get_node("n0")).ready


async def test_pod_that_ignores_sigterm_is_killed_after_its_grace(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually
) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    pod = await cluster.create_pod(PodSpec(name="p", command=(sys.executable, "-c", STUBBORN), node="n0"))

    async def ready() -> bool:
        return await output(cluster, "p") == b"ready\n"

    await eventually(ready)
    pid = int(pod.annotations[PID_ANNOTATION])
    started = time.monotonic()
    await cluster.delete_pod(NS, "p", grace_seconds=60)
    assert (await cluster.get_pod(NS, "p")).deletion_requested
    await cluster.delete_pod(NS, "p", grace_seconds=0.3)

    async def gone() -> bool:
        try:
            await cluster.get_pod(NS, "p")
        except NotFound:
            return True
        return False

    await eventually(gone)
    assert 0.3 <= time.monotonic() - started < 60
    assert not alive(pid)


async def test_forced_deletion_on_stopped_node_takes_effect_when_it_goes_on(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually, tmp_path: Path
) -> None:
    node_pid = start_node(cluster_dir, "n0", gpus=1)
    pids = await process_tree(cluster, eventually, tmp_path)
    os.kill(node_pid, signal.SIGSTOP)
    try:
        assert not (await cluster.get_node("n0")).ready
        assert (await cluster.get_pod(NS, "tree")).phase is PodPhase.UNKNOWN
        await cluster.delete_pod(NS, "tree", force=True)
        assert await cluster.list_pods() == []
        assert all(map(alive, pids))
    finally:
        os.kill(node_pid, signal.SIGCONT)

    async def all_dead() -> bool:
        return not any(map(alive, pids))

    await eventually(all_dead)
    assert await cluster.list_pods() == []


async def test_pod_sees_its_gpus_and_environment_but_no_settings_of_the_node(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGHAUL_API_TOKEN", "secret")
    start_node(cluster_dir, "n0", gpus=3)
    await cluster.create_pod(PodSpec(name="first", command=("sleep", "600"), gpus=1))
    script = 'echo "$LONGHAUL_GPU_INDICES|$MINE|$LONGHAUL_API_TOKEN"'
    await cluster.create_pod(PodSpec(name="p", command=("sh", "-c", script), gpus=2, env={"MINE": "yes"}))
    assert await output(cluster, "p", follow=True) == b"1,2|yes|\n"


async def test_pod_logs_follow_to_the_end_and_tail(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually
) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    script = "for i in $(seq 1 3000); do echo line $i; done; echo bad >&2; exit 3"
    await cluster.create_pod(PodSpec(name="p", command=("sh", "-c", script)))
    lines = (await output(cluster, "p", follow=True)).decode().splitlines()
    assert lines == [*(f"line {i}" for i in range(1, 3001)), "bad"]
    assert await output(cluster, "p", tail_lines=2) == b"line 3000\nbad\n"
    assert await output(cluster, "p", tail_lines=0) == b""


async def test_command_that_is_no_program_fails_with_start_error(
    cluster: LocalCluster, cluster_dir: Path, eventually: Eventually
) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    await cluster.create_pod(PodSpec(name="p", command=("/no/such/program",)))
    assert b"cannot execute /no/such/program" in await output(cluster, "p", follow=True)
    pod = await cluster.get_pod(NS, "p")
    assert (pod.phase, pod.reason, pod.exit_code) == (PodPhase.FAILED, PodReason.START_ERROR, 127)
    bad_folder = PodSpec(name="q", command=("true",), working_dir="/no/such/folder")
    assert (await cluster.create_pod(bad_folder)).reason == PodReason.START_ERROR


async def test_wrong_token_gets_no_answer(cluster: LocalCluster, cluster_dir: Path) -> None:
    start_node(cluster_dir, "n0", gpus=1)
    store: Store = cluster.store
    endpoint = store.load_endpoint("n0")
    assert endpoint is not None
    assert store.layout.endpoint("n0").stat().st_mode & 0o077 == 0
    store.write_endpoint("n0", Endpoint(endpoint.port, "guess", endpoint.pid))
    assert not (await cluster.get_node("n0")).ready
    store.write_endpoint("n0", endpoint)


async def test_node_restarted_with_other_arguments_keeps_marks(cluster: LocalCluster, cluster_dir: Path) -> None:
    start_node(cluster_dir, "n0", gpus=1, labels={"zone": "a"}, exporter_url="http://127.0.0.1:1/metrics")
    stop_node(cluster_dir, "n0")
    start_node(cluster_dir, "n0", gpus=4, labels={"rack": "r1"}, exporter_url="http://127.0.0.1:2/metrics")
    node = await cluster.get_node("n0")
    assert (node.gpus_total, node.labels) == (4, {"zone": "a", "rack": "r1"})
    assert node.exporter_url == "http://127.0.0.1:2/metrics"
