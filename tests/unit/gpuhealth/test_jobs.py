"""Who uses which GPU, and the GPUs of a run side by side."""

from __future__ import annotations

from longhaul_gpuhealth.domain.jobs import PodUse, attribute_pods
from longhaul_gpuhealth.domain.model import Finding, GpuVerdict, HealthAction, HealthState, Job, NodeVerdict, Severity
from longhaul_gpuhealth.domain.ranks import compare_ranks

RUN_POD = PodUse("default", "run-1-0", 4, "p", "r", slot=1)


def test_labels_of_the_exporter_say_which_gpu_a_pod_holds() -> None:
    reported = {0: ("default", "other"), 1: None, 2: ("default", "run-1-0"), 3: ("default", "run-1-0")}
    uses = attribute_pods(reported, [PodUse("default", "run-1-0", 2, "p", "r", slot=3)])
    assert uses.jobs == {
        0: Job("default", "other"),
        2: Job("default", "run-1-0", "p", "r", 6),
        3: Job("default", "run-1-0", "p", "r", 7),
    }
    assert uses.unattributed == 0


def test_pod_that_holds_all_gpus_needs_no_labels() -> None:
    uses = attribute_pods(dict.fromkeys(range(4)), [RUN_POD])
    assert [uses.jobs[gpu].rank for gpu in range(4)] == [4, 5, 6, 7]


def test_pods_that_share_a_node_without_labels_are_counted_not_guessed() -> None:
    uses = attribute_pods(dict.fromkeys(range(4)), [PodUse("default", "a", 2), PodUse("default", "b", 1)])
    assert (uses.jobs, uses.unattributed) == ({}, 3)


def test_labels_of_one_pod_leave_the_rest_to_the_other() -> None:
    reported = {0: ("default", "a"), 1: None, 2: None}
    uses = attribute_pods(reported, [PodUse("default", "a", 1), PodUse("default", "b", 2)])
    assert {gpu: job.pod for gpu, job in uses.jobs.items()} == {0: "a", 1: "b", 2: "b"}


def test_idle_node_has_no_jobs() -> None:
    assert attribute_pods(dict.fromkeys(range(2)), []).jobs == {}


def gpu(index: int, rank: int, clock: float, run: str = "r") -> GpuVerdict:
    job = Job("default", "pod", "p", run, rank)
    return GpuVerdict(index, "", "H100", HealthState.HEALTHY, {"sm_clock_mhz": clock, "xid": 0.0}, job)


def test_ranks_of_a_run_are_compared_with_their_median_only() -> None:
    slow = Finding("slow", "1", Severity.WARNING, HealthAction.DIAGNOSE, 1, "", "", 0.0, 0.0)
    nodes = [
        NodeVerdict("n1", HealthState.HEALTHY, (gpu(0, 2, 1980.0), gpu(1, 3, 1200.0)), (slow,)),
        NodeVerdict("n0", HealthState.HEALTHY, (gpu(0, 0, 1975.0), gpu(1, 1, 1985.0), gpu(2, 0, 100.0, "another"))),
    ]
    comparison = compare_ranks(nodes, "p", "r")
    assert [(one.rank, one.node) for one in comparison.ranks] == [(0, "n0"), (1, "n0"), (2, "n1"), (3, "n1")]
    assert comparison.medians == {"sm_clock_mhz": 1977.5}
    assert comparison.ranks[3].deviations["sm_clock_mhz"] < -10
    assert abs(comparison.ranks[0].deviations["sm_clock_mhz"]) < 3
    assert comparison.ranks[3].rules == ("slow",)
    assert compare_ranks(nodes, "p", "no-such-run").ranks == ()
