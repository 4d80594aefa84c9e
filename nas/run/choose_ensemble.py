"""Choose the ensemble of a run from the validation logits of its full trainings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.common.progress import Reporter
from nas.common.registry import load_object
from nas.common.seeds import seed_from
from nas.config.schema import Config
from nas.data.features.store import FeatureStore
from nas.execution.worker_setup import trained_weights_path
from nas.models.fusion.ensemble import mean_logits
from nas.run.ensemble import Ensemble, EnsembleChoice, Member
from nas.run.prepare import SearchContext
from nas.run.reruns import RERUNS, RerunStore, read_simple_results
from nas.run.validation_scores import validation_logits
from nas.search.costs import CostModel
from nas.search.ensemble import (
    Array,
    EnsembleLimits,
    Rows,
    Score,
    ScoreFunction,
    cross_fitted_gain,
    select_members,
    why_no_ensemble,
)
from nas.search.keys import ModelKey
from nas.search.metric_registry import METRICS
from nas.search.objectives import Constraint
from nas.search.trial import Result
from nas.storage.contents import StudyContents
from nas.training.checkpoint import load_tensors, training_facts
from nas.training.metrics import Predictions, evaluate_logits, negative_log_likelihood

_TINY = 1e-15


def full_trainings(directory: Path, study: StudyContents) -> list[Result]:
    """Return all complete trainings of a run: finalists, the default, further seeds, and the linear classifier.

    Args:
        directory: The run directory.
        study: The study of the run.

    Raises:
        StudyError: If the file of one is damaged.
    """
    simple = reversed(read_simple_results(directory).values())
    found = [*study.results("full"), *simple, *RerunStore(directory / RERUNS).results()]
    by_key: dict[ModelKey, Result] = {result.key: result for result in found}  # the weights are those of the last one
    return list(by_key.values())


def choose_ensemble(
    config: Config, directory: Path, prepared: SearchContext, study: StudyContents, reporter: Reporter
) -> EnsembleChoice:
    """Choose the ensemble of a run; nothing is trained.

    Args:
        config: The configuration of the search.
        directory: The run directory.
        prepared: The encoders, features and memory predictions.
        study: The study of the run.
        reporter: The receiver of messages.

    Raises:
        StudyError: If the result or the weights of a training are damaged.
        OSError: If logits that were computed again cannot be kept.
    """
    store = prepared.store
    if config.data.is_retrieval:
        return EnsembleChoice(None, "embeddings of several models cannot be averaged")
    reason = why_no_ensemble(store.splits["validation"].labels, store.class_names)
    if reason is not None:
        return EnsembleChoice(None, reason)
    trainings = full_trainings(directory, study)
    usable = [result for result in trainings if _has_weights(directory, result)]
    if len(usable) < len(trainings):
        reporter.note(f"{len(trainings) - len(usable)} full training(s) without their weights cannot join an ensemble")
    constraints, model = config.search.constraints, prepared.memory
    pool = [result for result in usable if _may_be_together(constraints, model, [result])]
    if len(pool) < 2:
        return EnsembleChoice(None, f"it takes two complete trainings, and {len(pool)} can be a member")
    logits = [validation_logits(result, directory, config, prepared) for result in pool]
    return _chosen(config, model, _Pool(pool, logits, store))


@dataclass(frozen=True)
class _Pool:
    """The trainings to choose from, their validation logits, and the validation samples."""

    results: Sequence[Result]
    logits: Sequence[Tensor]
    store: FeatureStore


def _chosen(config: Config, model: CostModel, pool: _Pool) -> EnsembleChoice:
    """Choose the members, and measure the gain."""
    split = pool.store.splits["validation"]
    labels, constraints = torch.from_numpy(split.labels), config.search.constraints
    several = labels.ndim == 2
    stacked = torch.stack(list(pool.logits)).to(torch.float64)
    probabilities = (stacked.sigmoid() if several else stacked.softmax(dim=2)).numpy()
    score = score_function(config.search.objective, labels)
    limits = EnsembleLimits(
        config.search.members,
        lambda chosen: _may_be_together(constraints, model, [pool.results[index] for index in chosen]),
    )
    weights = select_members(probabilities, np.arange(len(labels)), score, limits)
    if len(weights) < 2:
        return EnsembleChoice(None, "no further training improves the best one on validation")
    order = sorted(weights, key=lambda index: (-weights[index], index))
    members = tuple(Member(pool.results[index], weights[index]) for index in order)
    mean = mean_logits(
        [pool.logits[index] for index in order], [weights[index] for index in order], has_several_labels=several
    )
    metrics = evaluate_logits(mean, labels)
    for constraint in constraints:
        if constraint.cost is None and not constraint.is_met(metrics[constraint.quantity]):
            return EnsembleChoice(None, f"the chosen members do not meet {constraint} together")
    strata = np.zeros(len(labels), dtype=np.int64) if several else labels.numpy()
    seed = seed_from(config.seed, "ensemble")
    groups = split.image_of_sample
    gain = cross_fitted_gain(probabilities, score, limits, strata=strata, groups=groups, seed=seed)
    return EnsembleChoice(Ensemble(members, metrics, gain))


def score_function(objective: str, labels: Tensor) -> ScoreFunction:
    """Return the function that scores probabilities by the objective, ties by the cross-entropy.

    Args:
        objective: The metric of the search. Its threshold, where it tunes one, is tuned on the samples that are scored.
        labels: The labels of all samples, (N,) or (N, C).
    """
    metric, several = METRICS[objective], labels.ndim == 2
    function: Callable[[Predictions], float] = load_object(metric.function)

    def score(probabilities: Array, rows: Rows) -> Score:
        clipped = torch.from_numpy(probabilities).clamp(_TINY, 1 - _TINY)
        predictions = Predictions(clipped.logit() if several else clipped.log(), labels[torch.from_numpy(rows)])
        return metric.score(float(function(predictions))), -negative_log_likelihood(predictions)

    return score


def _may_be_together(constraints: Sequence[Constraint], model: CostModel, results: Sequence[Result]) -> bool:
    """Return whether the summed costs of trainings meet the bounds.

    The frozen encoders, which the members share, count in no cost. A bound on the memory of a training holds for each
    member alone, because members are trained one by one.
    """
    for constraint in constraints:
        cost = constraint.cost
        if cost is None or cost.limits_memory:
            continue
        values = [
            _known(cost.measure(result) if cost.measure else cost.predicted(model, result.architecture))
            for result in results
        ]
        if not constraint.is_met(sum(values)):
            return False
    return True


def _known(value: float | None) -> float:
    """Return a cost; infinite where it is not known."""
    return math.inf if value is None else value


def _has_weights(directory: Path, result: Result) -> bool:
    """Return whether the weights of a training are kept: a later training may have replaced them.

    Raises:
        StudyError: If they are damaged.
    """
    path = trained_weights_path(directory, result.key, "full")
    if not path.exists():
        return False
    _, facts = load_tensors(path)
    return training_facts(result).items() <= facts.items()
