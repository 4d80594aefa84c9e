"""Select results of a run: the best of a stage, or the one to export, or explain why there is none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nas.common.errors import StudyError
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.execution.worker_setup import SUPERNET_FILE, trained_weights_path
from nas.models.fusion.model_classes import load_model_class
from nas.run.answer import excluded_models, highest
from nas.run.directory import read_run, read_study
from nas.run.ensemble import EnsembleChoice, read_choice
from nas.run.model_parts import ModelParts
from nas.run.program_name import command_line
from nas.run.reruns import read_simple_results
from nas.run.roles import BEST, DISTILLED, SIMPLE_MODELS, ExportRule, picks_candidate
from nas.search.costs import CostModel
from nas.search.metric_registry import METRICS
from nas.search.objectives import Objectives, pick
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Result, Stage
from nas.storage.contents import StudyContents

_MAX_LISTED = 20
_ADJECTIVES: Mapping[Stage, str] = {
    "one_shot": "screened",
    "short": "briefly trained",
    "full": "completely trained",
}


def concluded(directory: Path, results: Sequence[Result]) -> EnsembleChoice | None:
    """Return what a run was concluded with; None if it was not, or has got further since.

    Args:
        directory: The run directory.
        results: The results of the last stage that any candidate has completed.

    Raises:
        StudyError: If the stored choice is damaged.
    """
    choice = read_choice(directory)
    best = choice.best
    if best is None or not results or best.stage != results[0].stage or not has_weights(directory, best):
        return None
    return choice


def best_full(directory: Path, storage: str | None = None) -> Result | None:
    """Return the best full training of a run, or None if none meets the constraints.

    That of the run's report, if there is one.

    Args:
        directory: The run directory.
        storage: The database URL in place of the recorded one; see `read_study`.
    """
    run = read_run(directory)
    results = read_study(directory, run, storage=storage).results("full")
    choice = concluded(directory, results)
    return _best_of(run.config, results) if choice is None else choice.best


def best_latest(directory: Path, config: Config, study: StudyContents) -> Result | None:
    """Return the best result of the last stage that any candidate has completed, or None if none is eligible.

    That of the run's report, if there is one.

    Args:
        directory: The run directory.
        config: The configuration of the run.
        study: The study of the run.
    """
    results = latest_results(study)
    choice = concluded(directory, results)
    return _best_of(config, results) if choice is None else choice.best


def best_architectures(directory: Path, space: SearchSpace) -> list[Architecture]:
    """Return the best architecture of each stage of an earlier run, without those outside a search space.

    Args:
        directory: The directory of the earlier run.
        space: The space of the new search.

    Raises:
        StudyError: If the directory holds no run, or the space contains none of them.
    """
    run = read_run(directory)
    study = read_study(directory, run)
    bests = [_best_of(run.config, study.results(stage)) for stage in reversed(STAGES)]
    found = dict.fromkeys(result.architecture for result in bests if result is not None)
    known = [architecture for architecture in found if architecture in space]
    if not known:
        raise StudyError(f"--warm-start {directory}: this search space contains none of the run's best architectures")
    return known


def _best_of(config: Config, results: Sequence[Result]) -> Result | None:
    """Return the result of one stage with the highest metric that meets the constraints; None if none does."""
    objectives = Objectives(config.search.objective, constraints=config.search.constraints)
    ranked = objectives.ranked([result for result in results if objectives.is_eligible(result)])
    return ranked[0] if ranked else None


class _KnownCosts:
    """Costs of candidates with results.

    Args:
        parts: The encoders and class names of the run.
        results: The results of one stage.
    """

    def __init__(self, parts: ModelParts, results: Sequence[Result]) -> None:
        self._parts = parts
        self._peak_bytes = {result.architecture: result.predicted_peak_bytes for result in results}

    def parameter_count(self, architecture: Architecture) -> int:
        with torch.device("meta"):
            return load_model_class(architecture.family).parameter_count(
                (self._parts.image_encoder, self._parts.text_encoder), architecture, len(self._parts.class_names)
            )

    def architecture_bytes(self, architecture: Architecture) -> int:
        return self._peak_bytes[architecture]


def pick_result(
    directory: Path, config: Config, parts: ModelParts, results: Sequence[Result], how: tuple[ExportRule, float]
) -> Result:
    """Pick one of the candidates of a stage, see `nas.search.objectives.pick`, another model, or the answer.

    The answer and the best candidate are those of the run's report, which knows all seeds, if the search is concluded.
    Before that, the answer is the model with the highest metric on validation.

    Args:
        directory: The run directory.
        config: The configuration of the run.
        parts: The encoders and class names of the run.
        results: The results of the stage; see `latest_results`.
        how: The rule, and how much lower than the best the metric may be, where the rule needs it.

    Raises:
        StudyError: If there is no candidate, none of them meets the constraints, or there is no such other model.
    """
    rule, within = how
    if rule == DISTILLED:
        return _distilled_result(directory, config)
    if rule != "answer" and not picks_candidate(rule):
        return _solved_result(directory, rule)
    if not results:
        raise StudyError(f"{directory}: {nothing_scored(directory)}")
    choice = concluded(directory, results) if rule in ("answer", "best") else None
    known = None if choice is None else choice.single if rule == "answer" else choice.best
    if known is not None:
        return known
    costs = _KnownCosts(parts, results)
    available = [result for result in results if has_weights(directory, result)] or results
    how_to_pick = rule if picks_candidate(rule) else "best"
    found = pick(available, objectives_of(config.search, costs), how_to_pick, size=costs.parameter_count, within=within)
    if found is None:
        raise StudyError(nothing_eligible(directory, config, results))
    return found if picks_candidate(rule) else _answer_until_now(directory, config, costs, found)


def _answer_until_now(directory: Path, config: Config, costs: CostModel, best: Result) -> Result:
    """Return the model with the highest metric of a search that is not concluded; of equal ones, the simplest."""
    simple, metric = read_simple_results(directory), config.search.objective
    excluded = excluded_models(simple, config.search.constraints, costs)
    models = {role: result for role, result in simple.items() if role not in excluded} | {BEST: best}
    return models[highest({role: METRICS[metric].score(result.metrics[metric]) for role, result in models.items()})]


def find_result(directory: Path, study: StudyContents, trial: int) -> Result:
    """Return the result of the last stage that a candidate has completed and whose weights are kept.

    Args:
        directory: The run directory.
        study: The study of the run.
        trial: The number of the candidate.

    Raises:
        StudyError: If the candidate has no score.
    """
    for stage in reversed(STAGES):
        result = study.result(stage, trial)
        if result is not None and has_weights(directory, result):
            return result
    if not study.count("one_shot"):
        raise StudyError(f"{directory}: {nothing_scored(directory)}")
    numbers = [result.trial for result in study.results("one_shot")]
    known = ", ".join(map(str, numbers[:_MAX_LISTED])) + (", ..." if len(numbers) > _MAX_LISTED else "")
    reason = next((entry.reason for entry in study.rejections if entry.trial == trial), None)
    problem = "has no score" if reason is None else f"has no score ({reason})"
    raise StudyError(f"{directory}: trial {trial} {problem} and cannot be exported; expected one of {known}")


def _solved_result(directory: Path, role: str) -> Result:
    result = read_simple_results(directory).get(role)
    if result is None:
        title = next(model.title for model in SIMPLE_MODELS if model.role == role)
        resume = command_line("resume", directory)
        raise StudyError(f"{directory}: has no {title} yet; solve it with: {resume}")
    return result


def _distilled_result(directory: Path, config: Config) -> Result:
    result = read_choice(directory).distilled
    if result is None:
        hint = "resume it with a larger --budget" if config.search.distill else "search with search.distill: true"
        raise StudyError(f"{directory}: has no distilled model; {hint}")
    return result


def has_weights(directory: Path, result: Result) -> bool:
    """Return whether the weights of a result are kept: short trainings keep those of the best candidates only.

    Args:
        directory: The run directory.
        result: The result of any stage.
    """
    return result.stage != "short" or trained_weights_path(directory, result.key, "short").exists()


def latest_results(study: StudyContents) -> list[Result]:
    """Return the results of the last stage that any candidate has completed; scores of stages are never compared."""
    return next((results for stage in reversed(STAGES) if (results := study.results(stage))), [])


def nothing_scored(directory: Path) -> str:
    """Return the message that a run has no candidate that could be exported.

    Args:
        directory: The run directory.
    """
    missing = "" if (directory / SUPERNET_FILE).exists() else ", and the supernet was not trained"
    resume = command_line("resume", directory, rest="--budget ...")
    return f"No candidate was scored within the budget{missing}; continue with a larger one: {resume}"


def nothing_eligible(directory: Path, config: Config, results: Sequence[Result]) -> str:
    """Return the message that no candidate of a stage meets the constraints.

    Args:
        directory: The run directory.
        config: The configuration of the run.
        results: The results of the stage.
    """
    bounds = ", ".join(map(str, config.search.constraints))
    counted = f"none of the {len(results)} {_ADJECTIVES[results[0].stage]} candidates meets {bounds}"
    export = command_line("export", directory, rest="--trial N --output DIR")
    resume = command_line("resume", directory, rest="--budget ...")
    return (
        f"{directory}: {counted}; results.csv lists them all, `{export}` exports one anyway, and `{resume}` searches "
        "for others"
    )
