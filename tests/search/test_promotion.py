from dataclasses import replace

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.objectives import Constraint, Objectives
from nas.search.promotion import PromotionQueue
from nas.search.trial import Result, Stage
from tests.support.costs import WidthCosts
from tests.support.factories import make_result

SCORES = [0.1, 0.5, 0.3, 0.4, 0.9, 0.2]


def result(trial: int, score: float, stage: Stage = "one_shot") -> Result:
    architecture = PMFArchitecture(1, 1, 1, 1, 1 + trial)
    return make_result(trial=trial, architecture=architecture, stage=stage, score=score)


def empty_queue(objectives: Objectives | None = None) -> PromotionQueue:
    return PromotionQueue(objectives or Objectives("accuracy"), round_size=4, promotion_fraction=0.5)


def queue_of(count: int) -> PromotionQueue:
    queue = empty_queue()
    for trial, score in enumerate(SCORES[:count]):
        queue.add_scored(result(trial, score))
    return queue


def promoted(queue: PromotionQueue, *, is_complete: bool = False) -> list[int]:
    """Take and return all candidates that are due, in order."""
    found = []
    while (entry := queue.next_training(is_complete=is_complete, fits=lambda architecture: True)) is not None:
        found.append(entry.trial)
        queue.take(entry.trial)
    return found


def test_no_candidate_is_promoted_before_a_round_is_complete() -> None:
    assert promoted(queue_of(3)) == []


def test_the_fraction_of_a_round_is_promoted_best_first() -> None:
    assert promoted(queue_of(4)) == [1, 3]


def test_the_best_of_all_rounds_is_promoted_not_the_best_of_the_last_round() -> None:
    queue = queue_of(4)
    queue.take(1)
    queue.take(0)
    for trial, score in ((4, 0.2), (5, 0.1), (6, 0.35), (7, 0.0)):
        queue.add_scored(result(trial, score))
    assert promoted(queue) == [3, 6]


def test_an_incomplete_last_round_counts_once_scoring_is_complete() -> None:
    assert promoted(queue_of(6), is_complete=True) == [4, 1, 3]


def test_stopped_candidate_is_requeued() -> None:
    queue = queue_of(4)
    assert promoted(queue) == [1, 3]
    queue.give_back(1)
    assert promoted(queue) == [1]


def test_a_candidate_that_does_not_fit_is_skipped() -> None:
    queue = queue_of(4)
    best = PMFArchitecture(1, 1, 1, 1, 2)
    found = queue.next_training(is_complete=False, fits=lambda architecture: architecture != best)
    assert found is not None
    assert found.trial == 3


def test_full_training_prefers_short_training_scores_and_never_mixes_stages() -> None:
    queue = queue_of(6)
    queue.add_trained(result(3, 0.2, "short"))
    queue.add_trained(result(1, 0.6, "short"))
    assert [entry.trial for entry in queue.promotion_order()] == [1, 3, 4, 2, 5, 0]


def test_of_equal_scores_the_earlier_trial_is_first() -> None:
    queue = empty_queue()
    for trial, score in ((2, 0.5), (0, 0.5), (1, 0.7)):
        queue.add_scored(result(trial, score))
    assert [entry.trial for entry in queue.promotion_order()] == [1, 0, 2]


def test_with_several_objectives_the_front_is_promoted_first() -> None:
    queue = empty_queue(Objectives("accuracy", ["trainable_parameters"], (), WidthCosts()))
    # Trial t has a mapping width of 1 + t: the front is 0 (smallest) and 3 (best); 1 and 2 are dominated by 0.
    for trial, score in ((0, 0.5), (1, 0.4), (2, 0.5), (3, 0.9)):
        queue.add_scored(result(trial, score))
    assert set(promoted(queue, is_complete=True)) == {0, 3}


def test_candidates_that_break_a_constraint_are_trained_in_full_last() -> None:
    queue = empty_queue(Objectives("accuracy", (), (Constraint("latency", 1.0),)))
    for trial, seconds in enumerate((2.0, 0.5, 2.0, 0.5)):
        scored = replace(result(trial, 0.1 * trial), latency_seconds=seconds)
        queue.add_scored(scored)
        if trial < 2:
            queue.add_trained(replace(scored, stage="short", score=0.9 - trial))
    assert [entry.trial for entry in queue.promotion_order()] == [1, 3, 0, 2]
