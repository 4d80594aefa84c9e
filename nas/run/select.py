"""Select results of a run: the best of a stage, or the one to export."""

from collections.abc import Sequence
from pathlib import Path

import torch

from nas.common.errors import StudyError
from nas.config.schema import Config
from nas.config.search_schema import objectives_of
from nas.models.fusion.model_classes import load_model_class
from nas.run.directory import open_study, read_run
from nas.run.model_parts import ModelParts
from nas.search.objectives import Objectives, Pick, pick
from nas.search.space import Architecture, SearchSpace
from nas.search.trial import STAGES, Result


def best_full(directory: Path, storage: str | None = None) -> Result | None:
    """Return the best full training of a run, or None if none meets the constraints.

    Args:
        directory: The run directory.
        storage: The database URL in place of the recorded one; see `open_study`.
    """
    run = read_run(directory)
    with open_study(directory, run, storage=storage) as study:
        return _best_of(run.config, study.results("full"))


def best_architectures(directory: Path, space: SearchSpace) -> list[Architecture]:
    """Return the best architecture of each stage of an earlier run, without those outside a search space.

    Args:
        directory: The directory of the earlier run.
        space: The space of the new search.

    Raises:
        StudyError: If the directory holds no run, another driver has it open, or the space contains none of them.
    """
    run = read_run(directory)
    with open_study(directory, run) as study:
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
    """Costs of completely trained candidates.

    Args:
        parts: The encoders and class names of the run.
        results: The full trainings.
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
    directory: Path, config: Config, parts: ModelParts, results: Sequence[Result], how: tuple[Pick, float]
) -> Result:
    """Pick one of the completely trained candidates; see `nas.search.objectives.pick`.

    Args:
        directory: The run directory, for messages.
        config: The configuration of the run.
        parts: The encoders and class names of the run.
        results: The full trainings.
        how: The rule, and how much lower than the best the metric may be, where the rule needs it.

    Raises:
        StudyError: If no candidate was trained completely, or none that was meets the constraints.
    """
    if not results:
        raise StudyError(f"{directory}: no candidate was trained completely, so nothing can be exported")
    rule, within = how
    costs = _KnownCosts(parts, results)
    found = pick(results, objectives_of(config.search, costs), rule, size=costs.parameter_count, within=within)
    if found is None:
        bounds = ", ".join(map(str, config.search.constraints))
        raise StudyError(f"{directory}: no completely trained candidate meets {bounds}; --trial exports one anyway")
    return found


def find_full_result(directory: Path, results: Sequence[Result], trial: int) -> Result:
    """Return the full training of a candidate.

    Args:
        directory: The run directory, for messages.
        results: The full trainings.
        trial: The number of the candidate.

    Raises:
        StudyError: If the candidate was not trained completely; lists those that were.
    """
    for result in results:
        if result.trial == trial:
            return result
    known = ", ".join(str(result.trial) for result in results) or "none"
    raise StudyError(
        f"{directory}: trial {trial} was not trained completely and cannot be exported; trained completely: {known}"
    )
