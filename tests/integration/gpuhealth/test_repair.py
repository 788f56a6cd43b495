"""A node is taken out, repaired by a hook, tested by a burn-in and released."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.cluster import PodPhase
from longhaul_core.errors import FailedPrecondition, InvalidArgument
from longhaul_core.rpc.client import from_rpc_error
from longhaul_gpuhealth.adapters.hooks import HookCall, HookState
from longhaul_gpuhealth.adapters.pod_hook import PodHook, PodTemplate, load_pod_template
from longhaul_gpuhealth.domain.model import Remedy

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@dataclass
class Webhook:
    """Answers 202 twice, then 200; `fails` makes it refuse."""

    url: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.append(await request.json())
        if self.fails:
            return web.Response(status=422, text="no such GPU")
        return web.Response(status=202 if len(self.calls) < 3 else 200)


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    hook = Webhook()
    application = web.Application()
    application.add_routes([web.post("/", hook.handle)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield hook
    await runner.cleanup()


async def in_stage(service: Any, stage: int) -> bool:
    return (await service.get("node-1")).repair.stage == stage


async def test_fatal_gpu_is_reset_tested_and_back_without_a_person(
    site: Any, webhook: Webhook, serve: Any, eventually: Eventually
) -> None:
    async with serve(reboot_webhook=webhook.url, release_after_burn_in=True, repair_poll_seconds=0.05) as service:
        await eventually(service.all_healthy)
        await site.exporter.trigger("off-bus-1")
        await eventually(lambda: in_stage(service, pb.REPAIR_STAGE_TESTING))
        health = await service.get("node-1")
        assert [call["remedy"] for call in webhook.calls] == ["reboot"] * 3
        assert {call["session"] for call in webhook.calls} == {health.repair.session}
        assert health.burn_in.session == health.repair.session
        assert health.state == pb.HEALTH_STATE_QUARANTINED
        report = pb.ReportBurnInRequest(name="nodes/node-1", session="stale", passed=True, device="NVIDIA H100")
        with pytest.raises(Exception, match="is over") as caught:
            await service.stub.ReportBurnIn(report)
        assert isinstance(from_rpc_error(caught.value), FailedPrecondition)
        report.session = health.burn_in.session
        report.measurements.add(gpu=0, name="bf16_tflops", value=650, unit="TFLOPS")
        await service.stub.ReportBurnIn(report)
        await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_HEALTHY))
        assert not (await site.cluster.get_node("node-1")).unschedulable
        types = await service.event_types("node-1")
        order = ["QUARANTINED", "REPAIR_BEGUN", "REPAIRED", "BURN_IN_REPORTED", "RELEASED"]
        assert [one for one in types if one in order] == order


async def test_refusing_hook_calls_a_person_and_a_good_burn_in_releases(
    site: Any, webhook: Webhook, serve: Any, eventually: Eventually
) -> None:
    webhook.fails = True
    async with serve(reboot_webhook=webhook.url, release_after_burn_in=True, repair_poll_seconds=0.05) as service:
        await eventually(service.all_healthy)
        await site.exporter.trigger("off-bus-1")
        await eventually(lambda: in_stage(service, pb.REPAIR_STAGE_HUMAN))
        assert "no such GPU" in (await service.get("node-1")).repair.message
        assert len(webhook.calls) == 1
        request = pb.RequestBurnInRequest(name="nodes/node-1", author="ada")
        session = (await service.stub.RequestBurnIn(request)).burn_in.session
        assert (await service.stub.RequestBurnIn(request)).burn_in.session == session
        report = pb.ReportBurnInRequest(name="nodes/node-1", session=session, passed=False, message="x", device="cpu")
        await service.stub.ReportBurnIn(report)
        await eventually(lambda: in_stage(service, pb.REPAIR_STAGE_HUMAN))


async def test_pod_of_a_template_repairs_on_its_node_once(site: Any, eventually: Eventually, tmp_path: Path) -> None:
    for command, ends in (
        (f"open({str(tmp_path / 'done')!r}, 'a').write('x')", HookState.DONE),
        ("exit(3)", HookState.FAILED),
    ):
        hook = PodHook(site.cluster, PodTemplate(command=(sys.executable, "-c", command)))
        call = HookCall("node-1", ends, Remedy.RESET, "XID 48", ("GPU-x",))

        async def ended(hook: PodHook = hook, call: HookCall = call) -> bool:
            return (await hook.advance(call)).state is not HookState.UNDER_WAY

        await eventually(ended)
        answer = await hook.advance(call)
        assert answer.state is ends, answer
    assert (tmp_path / "done").read_text() == "x"
    pods = await site.cluster.list_pods({"longhaul.dev/kind": "repair"})
    assert {pod.phase for pod in pods} == {PodPhase.SUCCEEDED, PodPhase.FAILED}
    for pod in pods:
        await site.cluster.delete_pod(pod.namespace, pod.name)


def test_template_with_a_fault_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text("command: [reset]\nimagee: x\n")
    with pytest.raises(InvalidArgument, match="imagee"):
        load_pod_template(template)
