"""Parameters of Optuna trials: their distributions, names and values, and studies of earlier versions."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.models.fusion.readouts import READOUTS
from nas.search.space import SearchSpace
from nas.storage.parameters import TrialParameters, size_distribution
from tests.storage.conftest import StoredRun
from tests.support.factories import make_result
from tests.support.study_writer import SPACE

SEARCHED = SearchSpace(
    PMFArchitecture,
    {
        "fusion_layer": (3, 4, 5),
        "query_prompts": (1, 2, 4, 8),
        "query_context_prompts": (0, 2, 4, 8),
        "fusion_context_prompts": (2,),
        "mapping_width": (48, 96, 192, 384),
        "image_readout": (0, 1),
    },
)


def test_sizes_are_ordered_numbers_with_units_and_alternatives_have_names() -> None:
    architecture = PMFArchitecture(4, 8, 0, 2, 96, image_readout=1)
    values = SEARCHED.encode(architecture)
    parameters = TrialParameters(SEARCHED)
    params, distributions = parameters.encode(values)
    assert params == {
        "fusion_layer": 4,
        "query_prompts (tokens)": 8,
        "query_context_prompts (tokens)": 0,
        "fusion_context_prompts (tokens)": 2,
        "mapping_width (units)": 96,
        "image_readout": READOUTS[1],
    }
    assert distributions == {
        "fusion_layer": IntDistribution(3, 5),
        "query_prompts (tokens)": IntDistribution(1, 8, log=True),
        "query_context_prompts (tokens)": IntDistribution(0, 8, step=2),
        "fusion_context_prompts (tokens)": IntDistribution(2, 2),
        "mapping_width (units)": IntDistribution(48, 384, log=True),
        "image_readout": CategoricalDistribution((READOUTS[0], READOUTS[1])),
    }
    assert SEARCHED.decode(parameters.decode(params)) == architecture


@given(st.sets(st.integers(0, 70_000), min_size=1, max_size=8))
def test_distribution_of_a_size_contains_all_its_choices(choices: set[int]) -> None:
    ordered = tuple(sorted(choices))
    distribution = size_distribution(ordered)
    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in ordered)
    assert (distribution.low, distribution.high) == (ordered[0], ordered[-1])


def test_values_per_layer_and_direction_keep_their_places() -> None:
    architecture = PMFArchitecture(1, ((1, 2), (3, 1), (2, 2)), 1, 1, 1)
    parameters = TrialParameters(SPACE)
    params, _ = parameters.encode(SPACE.encode(architecture))
    assert params["query_prompts.layer_2.text_to_image (tokens)"] == 1
    assert SPACE.decode(parameters.decode(params)) == architecture


def test_value_that_no_gene_has_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        TrialParameters(SEARCHED).decode({"image_readout": "median"})


def test_study_of_an_earlier_version_is_read_and_continued_in_its_form(
    run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (PMFArchitecture(1, 1, 1, 1, width) for width in (1, 2, 3))
    with monkeypatch.context() as patch:
        patch.setattr(TrialParameters, "keep_form", lambda self, trials: setattr(self, "_is_old", True))
        with run.open() as study:
            study.finish(make_result(trial=study.start(first), architecture=first))
            study.start(second)
    old = run.optuna_study("one_shot").trials[0]
    assert old.params == SPACE.encode(first)
    assert all(isinstance(distribution, CategoricalDistribution) for distribution in old.distributions.values())
    with run.open() as study:
        assert study.running == {1: second}
        study.finish(make_result(trial=1, architecture=second))
        study.finish(make_result(trial=study.start(third), architecture=third))
        study.finish(make_result(trial=2, architecture=third, stage="full"))
    with run.open() as study:
        assert [result.architecture for result in study.results("one_shot")] == [first, second, third]
        assert [result.architecture for result in study.results("full")] == [third]
    assert [trial.params for trial in run.optuna_study("one_shot").trials] == [
        SPACE.encode(architecture) for architecture in (first, second, third)
    ]


def test_trials_hold_learning_curve_constraints_and_the_name_of_the_score(run: StoredRun) -> None:
    architecture = PMFArchitecture(1, 1, 1, 1, 1)
    with run.open() as study:
        study.name_scores({"one_shot": "negative cross_entropy", "short": "accuracy", "full": "accuracy"})
        trial = study.start(architecture)
        study.finish(make_result(trial=trial, architecture=architecture), constraints=[0.25])
        full = make_result(trial=trial, architecture=architecture, stage="full")
        study.finish(full, curve={1: 2.5, 40: 0.125}, constraints=[-1.5])
    with run.open() as study:
        study.name_scores({"full": "accuracy"})
        assert study.result("full", trial) == full
        one_shot, trained = (run.optuna_study(stage) for stage in ("one_shot", "full"))
        assert one_shot.metric_names == ["negative cross_entropy"] and trained.metric_names == ["accuracy"]
        assert trained.trials[0].intermediate_values == {1: 2.5, 40: 0.125}
        assert list(one_shot.trials[0].constraints.values()) == [0.25]
        assert list(trained.trials[0].constraints.values()) == [-1.5]
        if run.url is None:  # a name that is stored already is not stored again
            lines = (run.directory / "journal.log").read_text().splitlines()
            assert sum("metric_names" in line for line in lines) == 3


def test_importance_and_figures_of_optuna_work_on_a_study(journal: StoredRun) -> None:
    with journal.open() as study:
        study.name_scores({"one_shot": "accuracy", "full": "accuracy"})
        for width in (1, 2, 3):
            for prompts in (1, 2, 3):
                architecture = PMFArchitecture(1, prompts, 1, 1, width)
                trial, score = study.start(architecture), width / 4 + prompts / 100
                study.finish(make_result(trial=trial, architecture=architecture, score=score))
                trained = make_result(trial=trial, architecture=architecture, stage="full", score=score)
                study.finish(trained, curve={step: 2.0 - step * width / 100 for step in (10, 20, 30)})
    one_shot, full = (journal.optuna_study(stage) for stage in ("one_shot", "full"))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=8, seed=0)
    importances = optuna.importance.get_param_importances(one_shot, evaluator=evaluator)
    assert max(importances, key=importances.__getitem__) == "mapping_width (units)"
    plots = optuna.visualization
    names = ["mapping_width (units)", "query_prompts.layer_1.image_to_text (tokens)"]
    assert len(plots.plot_optimization_history(one_shot).data[0].y) == 9
    contour = plots.plot_contour(one_shot, params=names)
    assert {contour.layout.xaxis.title.text, contour.layout.yaxis.title.text} == set(names)
    assert plots.plot_slice(one_shot, params=names[:1]).layout.xaxis.title.text == names[0]
    assert plots.plot_parallel_coordinate(one_shot, params=names).data  # it abbreviates names
    curves = plots.plot_intermediate_values(full).data
    assert len(curves) == 9 and list(curves[-1].x) == [10, 20, 30] and list(curves[-1].y) == [1.7, 1.4, 1.1]
