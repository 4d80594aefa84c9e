"""The lines that a search prints: one line per event, with a fixed form for each kind of event."""

from collections.abc import Mapping
from pathlib import Path

from nas.common.units import format_seconds
from nas.execution.failure_policy import Verdict
from nas.run.phase_plan import PhasePlan
from nas.run.program_name import command_line
from nas.run.time_budget import Phase
from nas.search.keys import CandidateKey, DistilledKey, ModelKey, RecipeKey, RerunKey, VariantKey
from nas.search.metric_registry import METRICS
from nas.search.recipe_tuning import SETTINGS
from nas.search.space import Architecture
from nas.search.trial import STAGES, Failure, Result, Stage
from nas.training.metrics import standard_error

STAGE_VERBS: Mapping[Stage, str] = {
    "one_shot": "screened",
    "short": "trained briefly",
    "full": "trained completely",
}
"""The verb for a candidate that has completed each stage."""

STAGE_NOUNS: Mapping[Stage, str] = {
    "one_shot": "screening",
    "short": "short training",
    "full": "full training",
}
"""The activity of each stage."""

PHASE_TITLES: Mapping[str, str] = {
    "speed": "measuring the speed",
    "linear": "linear classifier",
    "bilinear": "bilinear classifier",
    "arm": "default of the arm",
    "recipe": "recipe",
    "supernet": "supernet",
    "candidates": "screening",
    "finalists": "full training",
    "race": "race",
    "distillation": "distillation",
}
"""The phases of a search, as its progress shows them."""

_PLANNED_TITLES: Mapping[Phase, str] = {
    "recipe": "recipe",
    "supernet": "supernet",
    "screening": "screening",
    "short": "short training",
    "finalists": "full training",
    "race": "race",
    "distillation": "distillation",
}
_UNNEEDED_SHARE = 0.1

VERDICT_TEXTS: Mapping[Verdict, str] = {
    "requeued": "requeued",
    "retry_alone": "requeued to run alone",
    "rejected": "failed",
}
"""The consequence for a job that has failed."""


def model_name(key: ModelKey) -> str:
    """Return the name of a model in messages: `#9` for candidate 9.

    Args:
        key: The key of the model.
    """
    match key:
        case CandidateKey(trial=trial):
            return f"#{trial}"
        case RerunKey(origin=origin, number=number):
            return f"{model_name(origin)} with further seed {number}"
        case RecipeKey(setting=setting, seed=seed):
            return f"recipe, {SETTINGS[setting]}, seed {seed},"
        case DistilledKey(number=number):
            return f"distilled, seed {number}"
        case _:
            return "default with other readouts" if isinstance(key, VariantKey) else key.name


def result_line(name: str, result: Result, metric: str) -> str:
    """Return the line of a finished job.

    For instance `#9 screened: accuracy 0.440, loss 1.892 (fusion from layer 4, prompts 1/8/2, width 48)`.

    Args:
        name: The name of the model: `#9` for candidate 9.
        result: The result of the job.
        metric: The metric that the search maximises.
    """
    parts = f"; {result.micro_batches} micro-batches" if result.micro_batches > 1 else ""
    parts += f"; shared by {result.device_count} devices" if result.device_count > 1 else ""
    return (
        f"{name} {STAGE_VERBS[result.stage]}: {scores_text(result, metric)} "
        f"({architecture_text(result.architecture)}{parts})"
    )


def scores_text(result: Result, metric: str) -> str:
    """Return the metric of a result and its loss: `accuracy 0.440, loss 1.892`."""
    loss = result.metrics.get("cross_entropy")
    return f"{metric} {result.metrics[metric]:.3f}" + ("" if loss is None else f", loss {loss:.3f}")


def metric_title(metric: str) -> str:
    """Return the name of a metric for a table, with its direction where lower is better."""
    return metric if METRICS[metric].higher_is_better else f"{metric} (lower is better)"


def architecture_text(architecture: Architecture) -> str:
    """Return the genes of an architecture in plain words, or the title of a family without genes."""
    return architecture.summary() or architecture.title


def failure_line(name: str, failure: Failure, verdict: Verdict) -> str:
    """Return the line of a job that has failed: `#9 screening requeued: its worker was killed from outside`.

    Args:
        name: The name of the model.
        failure: The failure of the job.
        verdict: The decision of the failure policy.
    """
    return f"{name} {STAGE_NOUNS[failure.job.stage]} {VERDICT_TEXTS[verdict]}: {failure.reason}"


def counts_text(counts: Mapping[Stage, int]) -> str:
    """Return the number of results of each stage: `15 screened, 0 trained briefly, 1 trained completely`."""
    return ", ".join(f"{counts[stage]} {STAGE_VERBS[stage]}" for stage in STAGES)


def training_text(stage: Stage) -> str:
    """Return what to add to the name of an exported model that was not trained completely."""
    return "" if stage == "full" else f" ({STAGE_VERBS[stage]} only, not trained completely)"


def better_model_lines(stage: Stage, directory: Path) -> list[str]:
    """Return the line about how to get a better model than one that was not trained completely.

    Args:
        stage: The last stage that the model has completed.
        directory: The run directory.
    """
    if stage == "full":
        return []
    resume = command_line("resume", directory, rest="--budget ...")
    return [f"For a better model, train candidates completely within a larger budget: {resume}"]


def supernet_line(done: int, total: int, process_count: int, seconds: float, *, is_interrupted: bool) -> str:
    """Return the line that ends the supernet's training.

    Args:
        done: The number of training steps.
        total: The number of steps in the configuration.
        process_count: The number of processes that shared the work.
        seconds: The time that the search has used so far.
        is_interrupted: Whether the user ended the training; else its share of the time did.
    """
    shared = f" by {process_count} processes" if process_count > 1 else ""
    if done < total:
        cause, hint = ("interrupted", "") if is_interrupted else ("time was up", "; rankings will be rough")
        return f"Supernet: {cause} after {done} of {total} steps{shared}, {format_seconds(seconds)} used{hint}"
    return f"Supernet: trained for {done} steps{shared}, {format_seconds(seconds)} used"


def plan_lines(plan: PhasePlan, budget_seconds: float) -> list[str]:
    """Return the lines about the division of a time budget into phases.

    Args:
        plan: The division.
        budget_seconds: The budget.
    """
    unneeded = ""
    if plan.unneeded_seconds > _UNNEEDED_SHARE * budget_seconds:
        unneeded = f"; {format_seconds(plan.unneeded_seconds)} of the {format_seconds(budget_seconds)} are not needed"
    return [
        f"Plan: {planned_text(plan.seconds)}{unneeded}",
        *(f"Left out: {_PLANNED_TITLES[phase]}: {reason}" for phase, reason in plan.left_out.items()),
        *(f"Corrected: {line}" for line in plan.corrections),
    ]


def planned_text(seconds: Mapping[Phase, float]) -> str:
    """Return the planned times of the phases: `supernet 1m36s → screening 20s → full training 36s → race up to 36s`."""
    return " → ".join(
        f"{_PLANNED_TITLES[phase]} {'up to ' if phase == 'race' else ''}{format_seconds(value)}"
        for phase, value in seconds.items()
    )


def metric_line(name: str, value: float, count: int) -> str:
    """Return a line of an evaluation: `accuracy: 0.580328 (standard error with 610 samples: 0.020)`.

    Args:
        name: The name of the metric.
        value: Its value.
        count: The number of samples.
    """
    if name != "accuracy":  # the binomial error holds for a share of samples, not for averages over classes
        return f"{name}: {value:.6f} ({count} samples)"
    return f"{name}: {value:.6f} (standard error with {count} samples: {standard_error(value, count):.3f})"
