"""The questions to answer before a training run is paid for, and the warnings that its numbers raise."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul_training.domain.planning.scaling import optimal_tokens_per_parameter

# A source repeated more often than this stops helping (data-constrained scaling; SmolLM3 holds math at 3 % for it).
MAXIMUM_EPOCHS = 5.0
# Tokens a parameter, relative to the optimum, below which a smaller model would have been better.
UNDERTRAINED = 0.5
# ... and above which the extra training only pays through cheaper inference.
OVERTRAINED = 20.0
VOCABULARY_MULTIPLE = 128
FIRST_MODEL_GPU_HOURS = 10_000.0


@dataclass(frozen=True, slots=True)
class Question:
    """One question, why it is asked, the answer that would stop the run, and whether the recipe answers it."""

    text: str
    reason: str
    stop_if: str
    answered: bool = False


def compass_questions(gpu_hours: float, reason: str) -> tuple[Question, ...]:
    """Why train at all: prompting, then fine-tuning, only then pre-training; then whether success can be known."""
    questions = [
        Question(
            "Does a prompt to an existing model already do the task?",
            "A prompt costs hours, a pre-training run months.",
            "yes",
        ),
        Question(
            "Does fine-tuning an open model do it?",
            "Continued or supervised training needs a thousandth of the tokens.",
            "yes",
        ),
        Question(
            "Which is the reason to pre-train: a research question, a production constraint (domain, deployment, "
            "governance), or a gap among open models?",
            "Spare compute, 'everyone does it' and 'the best model' are not reasons.",
            "none of the three",
            answered=bool(reason),
        ),
        Question(
            "Which evaluation, above chance early and with low noise, will show that the run succeeded?",
            "A run whose success can't be measured can't be stopped in time either.",
            "none",
        ),
        Question(
            "Are the evaluation's documents removed from the training data?",
            "Contaminated scores can't be repaired after the run.",
            "no",
        ),
    ]
    if gpu_hours > FIRST_MODEL_GPU_HOURS:
        questions.append(
            Question(
                "Has the same configuration been run on one hundredth of the tokens, with a resume drill?",
                "Ablations and debugging cost SmolLM3 58 % on top of its main run; surprises cost more.",
                "no",
            )
        )
    return tuple(questions)


def scaling_warnings(parameters: int, tokens: int) -> list[str]:
    """Warnings about tokens a parameter against the compute optimum of the same size."""
    ratio, optimum = tokens / parameters, optimal_tokens_per_parameter(parameters)
    if ratio < UNDERTRAINED * optimum:
        return [
            f"{ratio:.1f} tokens a parameter; about {optimum:.0f} is compute-optimal: a smaller model or more tokens "
            "would reach a lower loss for the same cost"
        ]
    if ratio > OVERTRAINED * optimum:
        return [
            f"{ratio:.0f} tokens a parameter, {ratio / optimum:.0f} times the compute optimum of {optimum:.0f}: "
            "right only if cheap inference is the goal"
        ]
    return []


def epoch_warnings(epochs: float, maximum_epochs: float) -> list[str]:
    """Warnings about data that is repeated too often; 0 epochs: unknown."""
    if epochs > maximum_epochs:
        return [f"the data would be repeated {epochs:.1f} times: more than data.maximum_epochs {maximum_epochs:g}"]
    if epochs > MAXIMUM_EPOCHS:
        return [f"the data is repeated {epochs:.1f} times; above {MAXIMUM_EPOCHS:.0f} repeats stop helping"]
    return []


def vocabulary_warnings(vocabulary_size: int) -> list[str]:
    """Warnings about a vocabulary that wastes matrix products."""
    if vocabulary_size % VOCABULARY_MULTIPLE == 0:
        return []
    rounded = -(-vocabulary_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return [f"vocabulary_size {vocabulary_size} is no multiple of {VOCABULARY_MULTIPLE}; {rounded} is as cheap"]
