from nas.config import EvolutionConfig, SearchConfig
from nas.results import Result, Stage
from nas.search import next_training, promotion_order, ranked
from nas.space import Architecture

SEARCH = SearchConfig("random", "accuracy", 1, 4, 0.5, 10, 3, EvolutionConfig(4, 2, 0.5, 0.5, 0.2))


def result(trial: int, score: float, stage: Stage = "inherited") -> Result:
    return Result(trial, Architecture(1, 1, 1, 1, 1 + trial), stage, score, {}, 0, 0, 0, 1.0, 1, 1)


SCORED = [result(trial, score) for trial, score in enumerate([0.1, 0.5, 0.3, 0.4, 0.9, 0.2])]


def test_nobody_is_promoted_before_a_round_is_complete() -> None:
    assert next_training(SEARCH, scored=SCORED[:3], taken=(), is_complete=False) is None


def test_the_share_of_a_round_is_promoted_best_first() -> None:
    first = next_training(SEARCH, scored=SCORED[:4], taken=(), is_complete=False)
    second = next_training(SEARCH, scored=SCORED[:4], taken=(1,), is_complete=False)
    assert first is not None and first.trial == 1
    assert second is not None and second.trial == 3
    assert next_training(SEARCH, scored=SCORED[:4], taken=(1, 3), is_complete=False) is None


def test_a_last_incomplete_round_counts_when_nobody_else_comes() -> None:
    last = next_training(SEARCH, scored=SCORED, taken=(1, 3), is_complete=True)
    assert last is not None and last.trial == 4


def test_full_training_goes_by_trained_scores_first_and_never_mixes_them_with_inherited_ones() -> None:
    trained = [result(3, 0.2, "trained"), result(1, 0.6, "trained")]
    assert [entry.trial for entry in promotion_order(scored=SCORED, trained=trained)] == [1, 3, 4, 2, 5, 0]


def test_of_equal_scores_the_earlier_trial_wins() -> None:
    assert [entry.trial for entry in ranked([result(2, 0.5), result(0, 0.5), result(1, 0.7)])] == [1, 0, 2]
