"""From the exporter's page to the marked node and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.cluster import Condition, ConditionStatus, NodePatch, Taint
from longhaul_core.errors import FailedPrecondition, InvalidArgument, LonghaulError, NotFound, ResourceExhausted
from longhaul_core.rpc.client import from_rpc_error
from longhaul_gpuhealth.adapters.marks import OPT_OUT_LABEL, SESSION, TAINT, UNDO

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def refused(call: Any) -> LonghaulError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_xid_79_takes_node_out_and_release_puts_it_back(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    foreign = Taint("example.com/maintenance", "soon")
    await site.cluster.patch_node("node-1", NodePatch(taints_add=(foreign,), annotations={"owner": "me"}))
    await site.exporter.trigger("off-bus-1")

    async def marked() -> bool:
        return bool((await site.cluster.get_node("node-1")).has_taint(TAINT.key))

    await eventually(marked)
    node = await site.cluster.get_node("node-1")
    assert node.unschedulable
    assert node.annotations["longhaul.dev/gpuhealth-by"] == "gpuhealth"
    assert "XID 79 on GPU 0" in node.annotations["longhaul.dev/gpuhealth-reason"]
    condition = node.condition("GpuHealthy")
    assert isinstance(condition, Condition)
    assert condition.status is ConditionStatus.FALSE

    health = await service.get("node-1")
    assert health.state == pb.HEALTH_STATE_QUARANTINED
    assert not health.drain.computes
    assert health.drain.session == node.annotations[SESSION]
    [finding] = health.findings
    assert (finding.rule, finding.gpu) == ("xid-off-bus", 0)
    assert [sample.value for sample in finding.evidence] == [79.0]

    explained = await service.stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/node-1"))
    text = "\n".join(explained.explanation)
    assert "DCGM_FI_DEV_XID_ERRORS of GPU 0" in text
    assert "rule xid-off-bus of" in text
    assert "gpuhealth took the node out" in text
    assert [event.type for event in explained.events][-4:] == [
        "RULE_FIRED",
        "QUARANTINED",
        "DRAIN_REQUESTED",
        "STATE_CHANGED",
    ]

    acknowledge = pb.AcknowledgeDrainRequest(
        name="nodes/node-1", session=health.drain.session, acknowledged_by="training", message="moved run demo"
    )
    drained = await service.stub.AcknowledgeDrain(acknowledge)
    assert drained.drain.acknowledged_by == "training"
    acknowledge.session = "another"
    stale = await refused(service.stub.AcknowledgeDrain(acknowledge))
    assert isinstance(stale, FailedPrecondition)
    assert stale.reason == "STALE_SESSION"

    release = pb.ReleaseNodeRequest(name="nodes/node-1", reason="replaced", author="ada", session="another")
    assert (await refused(service.stub.ReleaseNode(release))).reason == "STALE_SESSION"
    release.session = health.drain.session
    assert (await service.stub.ReleaseNode(release)).state == pb.HEALTH_STATE_RECOVERING
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_HEALTHY))
    node = await site.cluster.get_node("node-1")
    assert not node.unschedulable
    assert node.taints == (foreign,)
    assert node.annotations == {"owner": "me"}
    healthy = node.condition("GpuHealthy")
    assert isinstance(healthy, Condition)
    assert healthy.status is ConditionStatus.TRUE
    assert not (await service.get("node-1")).HasField("drain")


async def test_node_cordoned_by_others_stays_cordoned_after_release(
    site: Any, service: Any, eventually: Eventually
) -> None:
    await eventually(service.all_healthy)
    await site.cluster.patch_node("node-1", NodePatch(unschedulable=True))
    await site.exporter.trigger("off-bus-1")
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_QUARANTINED))

    async def marked(expected: bool) -> bool:
        return (UNDO in (await site.cluster.get_node("node-1")).annotations) is expected

    await eventually(lambda: marked(True))
    await service.stub.ReleaseNode(pb.ReleaseNodeRequest(name="nodes/node-1", reason="ok", author="ada"))
    await eventually(lambda: marked(False))
    assert (await site.cluster.get_node("node-1")).unschedulable


async def test_storm_is_stopped_by_budget_and_breaker(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    for event in ("off-bus-0", "off-bus-1", "off-bus-2"):
        await site.exporter.trigger(event)

    async def opened() -> bool:
        return bool((await service.stub.GetBudget(pb.GetBudgetRequest())).breaker_open)

    await eventually(opened)
    budget = await service.stub.GetBudget(pb.GetBudgetRequest())
    assert (budget.nodes, budget.quarantined_in_window, budget.limit_in_window) == (3, 1, 1)
    assert len(budget.waiting) == 2

    async def states() -> list[int]:
        answer = await service.stub.ListNodeHealth(pb.ListNodeHealthRequest())
        return sorted(node.state for node in answer.nodes)

    async def settled() -> bool:
        return await states() == [pb.HEALTH_STATE_FATAL, pb.HEALTH_STATE_FATAL, pb.HEALTH_STATE_QUARANTINED]

    await eventually(settled)
    tainted = [node.name for node in await site.cluster.list_nodes() if node.has_taint(TAINT.key)]
    assert len(tainted) == 1
    waiting = budget.waiting[0]
    assert "QUARANTINE_WITHHELD" in await service.event_types(waiting)
    by_hand = pb.QuarantineNodeRequest(name=f"nodes/{waiting}", reason="it is bad", author="ada")
    error = await refused(service.stub.QuarantineNode(by_hand))
    assert isinstance(error, ResourceExhausted)
    by_hand.force = True
    assert (await service.stub.QuarantineNode(by_hand)).state == pb.HEALTH_STATE_QUARANTINED
    reset = await service.stub.ResetBreaker(pb.ResetBreakerRequest(author="ada"))
    assert not reset.breaker_open


async def test_warnings_and_heat_change_state_but_take_nothing_out(
    site: Any, service: Any, eventually: Eventually
) -> None:
    await eventually(service.all_healthy)
    await site.exporter.trigger("application")
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_SUSPECT))
    await site.exporter.trigger("hot")
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_DEGRADED))
    health = await service.get("node-1")
    assert {finding.rule for finding in health.findings} >= {"xid-application", "temperature-critical"}
    assert health.schedulable
    assert [gpu.state for gpu in health.gpus] == [pb.HEALTH_STATE_SUSPECT, pb.HEALTH_STATE_DEGRADED]
    assert health.gpus[1].signals["temperature_celsius"] == 94
    assert not (await site.cluster.get_node("node-1")).taints


async def test_nan_values_say_nothing_and_break_nothing(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    await site.exporter.trigger("nan")

    async def without_values() -> bool:
        return all(not gpu.signals for gpu in (await service.get("node-2")).gpus)

    await eventually(without_values)
    assert (await service.get("node-2")).findings == []


async def test_opted_out_node_is_left_alone(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    await site.cluster.patch_node("node-1", NodePatch(labels={OPT_OUT_LABEL: "ignore"}))
    await site.exporter.trigger("off-bus-1")
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_FATAL))
    by_hand = pb.QuarantineNodeRequest(name="nodes/node-1", reason="x", author="ada", force=True)
    assert (await refused(service.stub.QuarantineNode(by_hand))).reason == "OPTED_OUT"
    assert not (await site.cluster.get_node("node-1")).taints
    await site.cluster.patch_node("node-1", NodePatch(labels={OPT_OUT_LABEL: None}))
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_QUARANTINED))


@pytest.mark.parametrize("service", [{"dry_run": True}], indirect=True)
async def test_dry_run_tells_and_marks_nothing(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    await site.exporter.trigger("off-bus-1")
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_FATAL))
    answer = await service.stub.ExplainVerdict(pb.ExplainVerdictRequest(name="nodes/node-1"))
    assert any(event.cause == "DRY_RUN" for event in answer.events)
    assert not (await site.cluster.get_node("node-1")).taints


async def test_overrides_overrule_the_verdict_until_they_end(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    soon = Timestamp()
    soon.FromMilliseconds(int((time.time() + 1.5) * 1000))
    out = pb.NodeOverride(state=pb.HEALTH_STATE_QUARANTINED, reason="firmware", author="ada", expire_time=soon)
    await service.stub.SetNodeOverride(pb.SetNodeOverrideRequest(name="nodes/node-0", override=out))
    await eventually(lambda: service.in_state("node-0", pb.HEALTH_STATE_QUARANTINED))
    await eventually(lambda: service.in_state("node-0", pb.HEALTH_STATE_HEALTHY))
    assert "OVERRIDE_ENDED" in await service.event_types("node-0")
    keep = pb.NodeOverride(state=pb.HEALTH_STATE_HEALTHY, reason="known good", author="ada")
    await service.stub.SetNodeOverride(pb.SetNodeOverrideRequest(name="nodes/node-1", override=keep))
    await site.exporter.trigger("off-bus-1")

    async def found() -> bool:
        return bool((await service.get("node-1")).findings)

    await eventually(found)
    assert (await service.get("node-1")).state == pb.HEALTH_STATE_HEALTHY
    wrong = pb.NodeOverride(state=pb.HEALTH_STATE_FATAL)
    error = await refused(service.stub.SetNodeOverride(pb.SetNodeOverrideRequest(name="nodes/node-1", override=wrong)))
    assert isinstance(error, InvalidArgument)
    assert [field for field, _ in error.violations] == ["override.state", "override.reason", "override.author"]


async def test_marks_removed_by_hand_count_as_release(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    await site.exporter.trigger("off-bus-1")

    async def marked() -> bool:
        return SESSION in (await site.cluster.get_node("node-1")).annotations

    await eventually(marked)
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_QUARANTINED))
    node = await site.cluster.get_node("node-1")
    gone = dict.fromkeys(node.annotations)
    await site.cluster.patch_node("node-1", NodePatch(unschedulable=False, taints_remove=(TAINT,), annotations=gone))
    await eventually(lambda: service.in_state("node-1", pb.HEALTH_STATE_HEALTHY))
    assert not (await site.cluster.get_node("node-1")).taints


async def test_watch_shows_drain_request_to_training(site: Any, service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    revision = (await service.stub.ListNodeHealth(pb.ListNodeHealthRequest())).revision
    stream = service.stub.WatchNodeHealth(pb.WatchNodeHealthRequest(after_revision=revision))
    await site.exporter.trigger("off-bus-1")
    async with asyncio.timeout(60):
        async for change in stream:
            if change.node.HasField("drain"):
                break
    assert change.node.node == "node-1"
    assert change.revision > revision
    stream.cancel()


async def test_unknown_names_and_rules(service: Any, eventually: Eventually) -> None:
    await eventually(service.all_healthy)
    unknown = pb.GetNodeHealthRequest(name="nodes/nowhere")
    assert isinstance(await refused(service.stub.GetNodeHealth(unknown)), NotFound)
    malformed = await refused(service.stub.GetNodeHealth(pb.GetNodeHealthRequest(name="node-1")))
    assert isinstance(malformed, InvalidArgument)
    nameless = await refused(service.stub.QuarantineNode(pb.QuarantineNodeRequest(name="nodes/node-1")))
    assert isinstance(nameless, InvalidArgument)
    rules = await service.stub.ListRules(pb.ListRulesRequest())
    assert "xid-off-bus" in {rule.id for rule in rules.rules}
    assert rules.version
