"""What a run's pods are made of."""

from __future__ import annotations

from pathlib import Path

from longhaul_core.cluster.model import Gang
from longhaul_core.recipe.pod import PodConfig
from longhaul_training.adapters.pod_environment import PodEnvironment
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.pod_specs import run_pod
from longhaul_training.domain.actions import CreatePod
from longhaul_training.domain.states import RunState
from situations import make_run


def gang_of(slot: int, state: RunState = RunState.ADMITTED) -> Gang | None:
    run = make_run(state, admissions=3)
    assert run.spec.pods == 2
    environment = PodEnvironment("", "", "", Path("scratch"))
    action = CreatePod(f"pod-{slot}", slot, 1, "node-0")
    return run_pod(run, action, "team-a", "", PodConfig(), PodIdentity(b"key"), environment).gang


def test_those_that_a_run_is_admitted_with_are_one_gang_and_its_spares_none_of_it() -> None:
    assert gang_of(0) == gang_of(1) == Gang("run-run-uid-3", 2)
    assert gang_of(2) is None


def test_replacement_does_not_wait_for_others_to_be_replaced() -> None:
    assert gang_of(1, RunState.RECOVERING) == Gang("run-run-uid-3", 2, late=True)
