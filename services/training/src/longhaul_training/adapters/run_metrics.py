"""One run at a time, as Prometheus sees it: what the leader knows of runs that live or ended a moment ago.

Labels are the names of those runs and nothing older, so that their number stays bounded by what is running.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from longhaul_core.metrics import Metrics, Table

from longhaul_training.adapters.run_store import StoredRun
from longhaul_training.domain.goodput import TimeLedger, ledger

RUN = ("project", "run")
SHOWN_AFTER_END_SECONDS = 900.0
"""A run that has ended is shown this long, so that a scrape sees how it ended."""

_USES = ("productive", "startup", "data_wait", "checkpoint", "recovery", "replay", "paused", "queued")


class RunMetrics:
    """Gauges of single runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._state = metrics.table("run_state", "1 for the state that a run is in.", (*RUN, "state"))
        self._since = metrics.table("run_state_timestamp_seconds", "When a run came into its state, Unix time.", RUN)
        self._time = metrics.table(
            "run_time_seconds",
            "Where a run's time went: productive, queued, paused, and badput by cause.",
            (*RUN, "use"),
        )
        self._goodput = metrics.table(
            "run_goodput_ratio", "Productive and preserved time over all time but queued and paused.", RUN
        )
        self._restarts = metrics.table(
            "run_restarts",
            "Faults of a run that were answered by a restart, by cause and action.",
            (*RUN, "cause", "action"),
        )
        self._nodes = metrics.table(
            "run_node_info", "1 for each pod of a run; the labels say where it is.", (*RUN, "slot", "node")
        )
        self._gpus = metrics.table("run_gpus", "GPUs that a run holds now.", RUN)
        self._numbers = {
            "step": metrics.table("run_step", "Newest step that was reported.", RUN),
            "steps": metrics.table("run_target_steps", "Steps that the run shall make.", RUN),
            "tokens": metrics.table("run_tokens", "Tokens that the newest step had seen.", RUN),
            "rate": metrics.table("run_tokens_per_second", "Throughput of the newest step.", RUN),
            "step_seconds": metrics.table("run_step_seconds", "Median time of the newest steps.", RUN),
            "step_at": metrics.table("run_last_step_timestamp_seconds", "When the newest step ended, Unix time.", RUN),
            "loss": metrics.table("run_loss", "Loss of the newest step, nats a token.", RUN),
            "validation_loss": metrics.table("run_validation_loss", "Newest validation loss, nats a token.", RUN),
            "checkpoint_step": metrics.table("run_checkpoint_step", "Step of the newest committed checkpoint.", RUN),
        }

    def show(self, runs: Iterable[StoredRun], now: float) -> None:
        """Show these runs and no others."""
        shown = {(stored.run.project, stored.run.id): stored for stored in runs if is_shown(stored, now)}
        controls = {key: stored.run.control for key, stored in shown.items()}
        ledgers = {key: _ledger(stored, now) for key, stored in shown.items()}
        self._state.show({(*key, control.state.value): 1 for key, control in controls.items()})
        self._since.show({key: control.since for key, control in controls.items()})
        self._time.show({(*key, use): getattr(book, use) for key, book in ledgers.items() for use in _USES})
        self._goodput.show({key: book.goodput for key, book in ledgers.items()})
        self._restarts.show({(*key, *labels): n for key, stored in shown.items() for labels, n in _restarts(stored)})
        self._nodes.show(
            {
                (*key, str(slot.index), slot.node): 1
                for key, stored in shown.items()
                for slot in stored.run.current_pods().values()
            }
        )
        self._gpus.show({key: s.run.spec.gpus if s.run.control.state.holds_gpus else 0 for key, s in shown.items()})
        numbers = {key: _numbers(stored) for key, stored in shown.items()}
        for name, table in self._numbers.items():
            table.show({key: found[name] for key, found in numbers.items() if name in found})

    def clear(self) -> None:
        """Show nothing: another replica leads."""
        tables: list[Table] = [
            self._state,
            self._since,
            self._time,
            self._goodput,
            self._restarts,
            self._nodes,
            self._gpus,
        ]
        for table in (*tables, *self._numbers.values()):
            table.show({})


def is_shown(stored: StoredRun, now: float) -> bool:
    """Whether a run lives, or ended a moment ago."""
    ended_at = stored.run.control.ended_at
    return not stored.run.control.state.terminal or (ended_at is not None and now - ended_at < SHOWN_AFTER_END_SECONDS)


def _ledger(stored: StoredRun, now: float) -> TimeLedger:
    control = stored.run.control
    return ledger(control.time, control.state, stored.reports.worker_time, control.ended_at or now)


def _restarts(stored: StoredRun) -> list[tuple[tuple[str, str], int]]:
    counts = Counter((incident.cause, incident.action.value) for incident in stored.run.control.incidents)
    return list(counts.items())


def _numbers(stored: StoredRun) -> Mapping[str, float]:
    reports = stored.reports
    numbers: dict[str, float] = {}
    target = stored.row.spec.get("trainer_config", {}).get("steps")
    if target is not None:
        numbers["steps"] = float(target)
    if reports.step >= 0:
        numbers |= {
            "step": reports.step,
            "tokens": reports.tokens,
            "rate": reports.tokens_per_second,
            "step_seconds": reports.median_step_seconds,
            "step_at": reports.step_at,
            "loss": reports.loss,
        }
    if reports.validation_loss is not None:
        numbers["validation_loss"] = reports.validation_loss
    if reports.checkpoint_step >= 0:
        numbers["checkpoint_step"] = reports.checkpoint_step
    return numbers
