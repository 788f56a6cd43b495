from __future__ import annotations

from longhaul.training.v1 import agent_pb2, training_run_pb2
from longhaul_trainer.agent.outbox import Outbox


def row(step: int) -> training_run_pb2.StepMetrics:
    return training_run_pb2.StepMetrics(step=step)


def finished(step: int) -> agent_pb2.ConnectRequest:
    return agent_pb2.ConnectRequest(run_finished=agent_pb2.RunFinished(step=step))


async def test_outbox_batches_rows_in_order_before_the_report_that_follows_them() -> None:
    outbox = Outbox()
    for step in range(1, 451):
        outbox.add_row(row(step))
    outbox.add(finished(450))
    reports = outbox.after(0)
    assert [report.sequence for report in reports] == [1, 2, 3, 4]
    steps = [entry.step for report in reports[:3] for entry in report.step_metrics.rows]
    assert steps == list(range(1, 451))
    assert reports[3].run_finished.step == 450


async def test_outbox_sends_again_what_is_not_acknowledged_under_the_same_numbers() -> None:
    outbox = Outbox()
    outbox.add(finished(1))
    outbox.add(finished(2))
    first = outbox.after(0)
    outbox.acknowledge(1)
    outbox.add_row(row(3))
    again = outbox.after(1)
    assert [report.sequence for report in again] == [2, 3]
    assert again[0] == first[1]
    assert outbox.waiting == 2
    assert outbox.last_sequence == 3


async def test_outbox_is_drained_once_everything_is_acknowledged() -> None:
    outbox = Outbox()
    await outbox.drained()
    outbox.add(finished(1))
    assert outbox.waiting == 1
    outbox.acknowledge(1)
    await outbox.drained()
    assert outbox.waiting == 0
