from dataclasses import replace

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.objectives import Constraint, Objectives
from nas.search.promotion import PromotionQueue
from nas.search.space import Architecture
from nas.search.trial import Result, Stage
from tests.support.factories import make_result

SCORES = [0.1, 0.5, 0.3, 0.4, 0.9, 0.2]


def result(trial: int, score: float, stage: Stage = "one_shot") -> Result:
    architecture = PMFArchitecture(1, 1, 1, 1, 1 + trial)
    return make_result(trial=trial, architecture=architecture, stage=stage, score=score)


def ladder(count: int) -> PromotionQueue:
    known = PromotionQueue(Objectives("accuracy"), round_size=4, promotion_fraction=0.5)
    for trial, score in enumerate(SCORES[:count]):
        known.add_scored(result(trial, score))
    return known


def due(known: PromotionQueue, *, is_complete: bool = False) -> list[int]:
    """Everyone who is due, taken one after another."""
    found = []
    while (entry := known.next_training(is_complete=is_complete, fits=lambda architecture: True)) is not None:
        found.append(entry.trial)
        known.take(entry.trial)
    return found


def test_nobody_is_promoted_before_a_round_is_complete() -> None:
    assert due(ladder(3)) == []


def test_the_share_of_a_round_is_promoted_best_first() -> None:
    assert due(ladder(4)) == [1, 3]


def test_the_best_of_all_rounds_is_promoted_not_the_best_of_the_last() -> None:
    known = ladder(4)
    known.take(1)
    known.take(0)
    for trial, score in ((4, 0.2), (5, 0.1), (6, 0.35), (7, 0.0)):
        known.add_scored(result(trial, score))
    assert due(known) == [3, 6]


def test_a_last_incomplete_round_counts_when_nobody_else_comes() -> None:
    assert due(ladder(6), is_complete=True) == [4, 1, 3]


def test_whose_training_was_stopped_is_due_again() -> None:
    known = ladder(4)
    assert due(known) == [1, 3]
    known.give_back(1)
    assert due(known) == [1]


def test_who_does_not_fit_is_passed_over() -> None:
    known = ladder(4)
    found = known.next_training(is_complete=False, fits=lambda architecture: architecture.mapping_width != 2)
    assert found is not None and found.trial == 3


def test_full_training_goes_by_trained_scores_first_and_never_mixes_them_with_inherited_ones() -> None:
    known = ladder(6)
    known.add_trained(result(3, 0.2, "short"))
    known.add_trained(result(1, 0.6, "short"))
    assert [entry.trial for entry in known.promotion_order()] == [1, 3, 4, 2, 5, 0]


def test_of_equal_scores_the_earlier_trial_wins() -> None:
    known = PromotionQueue(Objectives("accuracy"), round_size=4, promotion_fraction=0.5)
    for trial, score in ((2, 0.5), (0, 0.5), (1, 0.7)):
        known.add_scored(result(trial, score))
    assert [entry.trial for entry in known.promotion_order()] == [1, 0, 2]


def test_with_several_objectives_the_front_is_promoted_first() -> None:
    class Width:
        def parameter_count(self, architecture: Architecture) -> int:
            (sizes, _) = architecture.at(0)
            return sizes.mapping_width

        def architecture_bytes(self, architecture: Architecture) -> int:
            raise AssertionError("nobody asked for memory")

    known = PromotionQueue(
        Objectives("accuracy", ["trainable_parameters"], (), Width()), round_size=4, promotion_fraction=0.5
    )
    # Trial t has 1 + t units: the front is 0 (smallest) and 3 (best); 1 and 2 are no better than 0 and larger.
    for trial, score in ((0, 0.5), (1, 0.4), (2, 0.5), (3, 0.9)):
        known.add_scored(result(trial, score))
    assert set(due(known, is_complete=True)) == {0, 3}


def test_who_is_known_to_break_a_bound_is_trained_in_full_after_all_others() -> None:
    known = PromotionQueue(
        Objectives("accuracy", (), (Constraint("latency", 1.0),)), round_size=4, promotion_fraction=0.5
    )
    for trial, seconds in enumerate((2.0, 0.5, 2.0, 0.5)):
        scored = replace(result(trial, 0.1 * trial), latency_seconds=seconds)
        known.add_scored(scored)
        if trial < 2:
            known.add_trained(replace(scored, stage="short", score=0.9 - trial))
    assert [entry.trial for entry in known.promotion_order()] == [1, 3, 0, 2]
