"""Nodes and what hangs on them, as messages."""

from __future__ import annotations

from longhaul.common.v1 import resource_pb2 as common
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_core.db import ResourceRow

from longhaul_gpuhealth.convert.common import COLLECTION, remedy_value, stamp, state_value
from longhaul_gpuhealth.domain.burnin import BurnIn
from longhaul_gpuhealth.domain.model import Finding, GpuVerdict, NodeVerdict, Sample
from longhaul_gpuhealth.domain.record import Drain, NodeRecord, Override, Repair


def node_health(record: NodeRecord, row: ResourceRow, live: NodeVerdict | None, now: float) -> pb.NodeHealth:
    """A node, with the newest values where this replica has them."""
    gpus = live.gpus if live is not None and live.gpus else record.gpus
    last_scrape = live.last_scrape_time if live is not None and live.last_scrape_time else record.last_scrape_time
    message = pb.NodeHealth(
        metadata=common.Metadata(
            name=COLLECTION + record.node,
            uid=row.uid,
            revision=row.revision,
            create_time=stamp(row.created_at.timestamp()),
            update_time=stamp(row.updated_at.timestamp()),
        ),
        node=record.node,
        state=state_value(record.state),
        reason=common.StateReason(code=record.reason.code, message=record.reason.message, action=record.reason.action),
        gpus=[_gpu(gpu) for gpu in gpus],
        findings=[finding(one) for one in record.findings],
        schedulable=record.schedulable,
        state_time=stamp(record.state_since),
        recent_quarantines=record.recent_quarantines(now),
        pool=record.pool,
    )
    if last_scrape is not None:
        message.last_scrape_time.CopyFrom(stamp(last_scrape))
    if record.drain is not None:
        message.drain.CopyFrom(_drain(record.drain))
    if record.override is not None:
        message.override.CopyFrom(_override(record.override))
    if record.repair is not None:
        message.repair.CopyFrom(_repair(record.repair))
    if record.burn_in is not None:
        message.burn_in.CopyFrom(_burn_in(record.burn_in))
    return message


def finding(one: Finding) -> pb.Finding:
    """A finding with its evidence."""
    return pb.Finding(
        rule=one.rule,
        rule_version=one.rule_version,
        severity=pb.Severity.Value(f"SEVERITY_{one.severity.name}"),
        action=pb.HealthAction.Value(f"HEALTH_ACTION_{one.action.name}"),
        gpu=one.gpu,
        gpu_uuid=one.gpu_uuid,
        message=f"{one.message} (shadow)" if one.shadow else one.message,
        evidence=[_sample(sample) for sample in one.evidence],
        first_time=stamp(one.first_time),
        last_time=stamp(one.last_time),
        active=one.active,
        remedy=remedy_value(one.remedy),
    )


def _gpu(gpu: GpuVerdict) -> pb.GpuHealth:
    message = pb.GpuHealth(
        index=gpu.index, uuid=gpu.uuid, model=gpu.model, state=state_value(gpu.state), signals=dict(gpu.signals)
    )
    if gpu.job is not None:
        job = gpu.job
        message.job.CopyFrom(
            pb.GpuJob(namespace=job.namespace, pod=job.pod, project=job.project, run=job.run, rank=job.rank)
        )
    return message


def _repair(repair: Repair) -> pb.Repair:
    return pb.Repair(
        session=repair.session,
        stage=pb.RepairStage.Value(f"REPAIR_STAGE_{repair.stage.name}"),
        since=stamp(repair.since),
        remedy=remedy_value(repair.remedy),
        message=repair.message,
    )


def _burn_in(burn_in: BurnIn) -> pb.BurnIn:
    message = pb.BurnIn(
        session=burn_in.session,
        request_time=stamp(burn_in.requested_at),
        author=burn_in.author,
        passed=burn_in.passed,
        message=burn_in.message,
        device=burn_in.device,
        measurements=[
            pb.BurnInMeasurement(gpu=one.gpu, name=one.name, value=one.value, unit=one.unit)
            for one in burn_in.measurements
        ],
    )
    if burn_in.reported_at is not None:
        message.report_time.CopyFrom(stamp(burn_in.reported_at))
    return message


def _drain(drain: Drain) -> pb.DrainRequest:
    message = pb.DrainRequest(
        session=drain.session,
        request_time=stamp(drain.requested_at),
        computes=drain.computes,
        cause=drain.cause,
        acknowledged_by=drain.acknowledged_by,
        acknowledgement=drain.acknowledgement,
    )
    if drain.acknowledged_at is not None:
        message.acknowledge_time.CopyFrom(stamp(drain.acknowledged_at))
    return message


def _override(override: Override) -> pb.NodeOverride:
    message = pb.NodeOverride(state=state_value(override.state), reason=override.reason, author=override.author)
    if override.expires_at is not None:
        message.expire_time.CopyFrom(stamp(override.expires_at))
    return message


def _sample(sample: Sample) -> pb.SignalSample:
    return pb.SignalSample(
        node=sample.node,
        gpu=sample.gpu,
        signal=sample.signal,
        value=sample.value,
        time=stamp(sample.time),
        labels=dict(sample.labels),
    )
