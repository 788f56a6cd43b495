"""The state with which a run goes on after it went back to an earlier checkpoint. Pure."""

from __future__ import annotations

from longhaul_core.recipe import TrainerConfig

from longhaul_trainer.checkpoint.trainer_state import TrainerState
from longhaul_trainer.loop.anomaly import Rewind


def rewound_state(
    state: TrainerState, earlier: TrainerState, config: TrainerConfig, failed_step: int
) -> tuple[TrainerState, Rewind]:
    """The earlier state with the batches around the failure left out, and what was done.

    Samples go on behind the failed batch in any case; what was thrown away counts into the position.
    """
    batch = config.global_batch_at(failed_step)
    reached = state.sample_cursor + batch if earlier.stage == state.stage else 0
    cursor = max(earlier.sample_cursor + config.anomalies.skip_batches * batch, reached)
    rewind = Rewind(
        failed_step=failed_step,
        step=earlier.step,
        stage=earlier.stage,
        skipped_from=earlier.sample_cursor,
        skipped_to=cursor,
    )
    changes = {
        "sample_cursor": cursor,
        "anomalies": state.anomalies.rewound(rewind, config.anomalies.rate_cut),
        "rewound_steps": state.rewound_steps + failed_step - earlier.step,
        **{name: getattr(state, name) for name in ("epoch", "lineage", "config")},
    }
    return earlier.model_copy(update=changes), rewind
