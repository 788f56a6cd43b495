"""Written incidents, each with exactly the verdicts and actions that must follow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from longhaul_gpuhealth.domain.replay import replay

sys.path.insert(0, str(Path(__file__).parent))
from incidents import Player, expected_states, load_incident

TRACES = sorted((Path(__file__).parents[2] / "golden" / "gpuhealth" / "incidents").glob("*.yaml"))


def test_there_are_traces_of_every_kind() -> None:
    assert len(TRACES) >= 25


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_incident_has_exactly_the_expected_verdicts_and_actions(rules: Any, path: Path) -> None:
    incident = load_incident(path)
    player = Player(incident, rules)
    player.play()
    fired = {rule: sorted(places) for rule, places in player.fired.items()}
    assert fired == {rule: sorted(places) for rule, places in incident.findings.items()}
    assert player.states() == expected_states(incident)
    assert player.actions == incident.actions


@pytest.mark.parametrize(
    "name",
    [
        "xid-79-off-the-bus",
        "ecc-double-bit",
        "gpu-lost-without-xid",
        "job-crash-on-64-gpus",
        "power-loss-of-half-the-cluster",
    ],
)
def test_recorded_samples_of_an_incident_replay_to_the_same_quarantines(rules: Any, name: str) -> None:
    incident = load_incident(next(path for path in TRACES if path.stem == name))
    player = Player(incident, rules)
    player.play()
    nodes = max(incident.fleet, len(incident.scenario.nodes))
    outcome = replay(player.samples, rules, player.policy, silence_seconds=3 * incident.every + 2, nodes=nodes)
    assert outcome.quarantined == [told.split()[1] for told in incident.actions if told.startswith("QUARANTINED")]
