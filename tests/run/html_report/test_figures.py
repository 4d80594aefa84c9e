"""The figures of the report: what they show, against the results they come from."""

import math
import random
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest

from nas.run.html_report import figures, training_figures
from nas.run.html_report.figures import as_plotly
from nas.run.html_report.style import Figure, plain
from nas.search.trial import Result, Stage
from nas.storage.importance import gene_importance
from tests.support.factories import make_result
from tests.support.run_data import HOSTILE, make_architecture, make_curve, make_jobs, make_run_data


def named(found: Figure | None) -> dict[str, dict[str, object]]:
    """Return the traces of a figure by their names; plotly accepts all of them."""
    assert found is not None
    assert isinstance(as_plotly(found), go.Figure)
    return {trace.get("name", ""): trace for trace in found["data"]}


def test_history_has_every_result_at_its_stage(tmp_path: Path) -> None:
    data = make_run_data(tmp_path)
    traces = named(figures.history(data))
    for stage, name in (("one_shot", "screened"), ("short", "trained briefly"), ("full", "trained completely")):
        results = data.results[stage]  # type: ignore[index]
        assert traces[name]["x"] == [result.trial for result in results]
        assert traces[name]["y"] == pytest.approx([result.metrics["accuracy"] for result in results], rel=1e-5)
    best = traces["best screened so far"]["y"]
    assert isinstance(best, list) and best == sorted(best) and best[-1] == max(best)
    assert traces["linear classifier"]["y"] == [0.5, 0.5]


@pytest.mark.parametrize("cost", figures.COSTS)
def test_nothing_beats_a_member_of_the_front(tmp_path: Path, cost: figures.Cost) -> None:
    data = make_run_data(tmp_path, count=60)
    members = figures.front_members(data, cost)
    points = {r.trial: (figures.cost_of(data, r, cost) or 0.0, data.value(r)) for r in data.results["full"]}
    beaten = {
        trial
        for trial, (cost_, value) in points.items()
        for other, better in points.values()
        if other <= cost_ and better >= value and (other, better) != (cost_, value)
    }
    assert {member.trial for member in members} == points.keys() - beaten
    x = named(figures.front(data, cost))["front of those trained completely"]["x"]
    assert isinstance(x, list) and x == sorted(x) and len(x) == len(members)


def test_front_of_a_cost_that_is_not_known_is_no_figure(tmp_path: Path) -> None:
    results = {"one_shot": [make_result()], "short": [], "full": []}
    data = make_run_data(tmp_path, results=results, parameters={})
    assert figures.front(data, "latency") is None and figures.front(data, "parameters") is None
    assert figures.front(data, "memory") is not None


def test_gene_that_alone_decides_the_score_has_the_importance() -> None:
    generator = random.Random(1)
    architectures = [make_architecture(generator) for _ in range(200)]
    found = gene_importance(architectures, [entry.fusion_layer + 0.01 * generator.random() for entry in architectures])
    assert next(iter(found)) == "fusion_layer" and found["fusion_layer"] > 0.7
    assert sum(found.values()) == pytest.approx(1)
    assert gene_importance(architectures, [1.0] * 200) == {} == gene_importance([], [])


def test_effects_of_genes_contain_every_score_once(tmp_path: Path) -> None:
    data = make_run_data(tmp_path)
    found = figures.gene_effects(data)
    assert set(found) == {"fusion_layer", *(gene for gene in found)} and len(found) == 5
    for effect in found.values():
        (box,) = effect["data"]
        assert sorted(box["y"]) == pytest.approx(sorted(map(data.value, data.results["one_shot"])), rel=1e-5)


def test_agreement_shows_the_pairs_of_both_stages(tmp_path: Path) -> None:
    data = make_run_data(tmp_path)
    found = next(entry for entry in data.agreements if (entry.cheaper, entry.dearer) == ("one_shot", "full"))
    (trace,) = named(figures.stage_agreement(data, found)).values()
    assert len(trace["x"]) == found.count == 4  # type: ignore[arg-type]
    assert found.tau == pytest.approx(1)


def test_time_counts_planned_screening_and_short_training_together(tmp_path: Path) -> None:
    times = figures.phase_times(make_run_data(tmp_path))
    assert times["screening and short training"] == (80.0, 70.0)
    assert times["linear classifier"] == (3.0, None)
    assert named(figures.time_by_phase(make_run_data(tmp_path))).keys() == {"used", "planned"}


def test_memory_of_a_job_lasts_as_long_as_the_job(tmp_path: Path) -> None:
    data = make_run_data(tmp_path)
    found = training_figures.worker_memory(data)
    assert found is not None and as_plotly(found)
    predicted, held, *others = found["data"]
    assert [trace["name"] for trace in (predicted, held, *others)] == ["predicted", "held"] * 2
    assert predicted["x"][:4] == [0, 0, pytest.approx(9 / 60), pytest.approx(9 / 60)]
    assert predicted["y"][:4] == [0, 500, 500, 0]
    assert len(others[1]["x"]) == len(others[0]["x"]) - 4, "job 3 of the second worker has no measured peak"


def test_memory_of_jobs_that_follow_each_other_does_not_go_down(tmp_path: Path) -> None:
    first, second = (replace(job, worker=0) for job in make_jobs(3)[::2])
    data = make_run_data(tmp_path, jobs=[first, replace(second, seconds=10.0)])
    found = training_figures.worker_memory(data)
    assert found is not None
    assert found["data"][0]["y"] == [0, 500, 500, 502, 502, 0]


def test_curves_are_grouped_by_training_and_thinned(tmp_path: Path) -> None:
    found = training_figures.learning_curves(make_run_data(tmp_path))
    assert found is not None and as_plotly(found)
    assert [trace["y"] for trace in found["data"]] == [pytest.approx([2, 1.8, 1.6, 1.4, 1.2])] * 3
    assert [trace["showlegend"] for trace in found["data"]] == [True, False, False]
    many = training_figures.learning_curves(make_run_data(tmp_path, curves=make_curve(0, 1000)))
    assert many is not None
    (curve,) = many["data"]
    assert len(curve["x"]) == 200 and curve["x"][0] == 0 and curve["x"][-1] == 999


def test_validation_curves_are_those_of_trainings_that_were_evaluated_on_their_way(tmp_path: Path) -> None:
    assert training_figures.validation_curves(make_run_data(tmp_path)) is None, "one evaluation is no curve"
    curve = make_curve(3, 5)
    curve += [replace(curve[-1], step=step, value=value) for step, value in ((2, 0.25), (3, 0.5))]
    found = training_figures.validation_curves(make_run_data(tmp_path, curves=sorted(curve, key=lambda at: at.step)))
    assert found is not None and as_plotly(found)
    (trace,) = found["data"]
    assert (trace["x"], trace["y"]) == ([2, 3, 5], [0.25, 0.5, 0.6])


def test_run_without_results_has_no_figures(tmp_path: Path) -> None:
    empty: dict[Stage, list[Result]] = {"one_shot": [], "short": [], "full": []}
    data = make_run_data(tmp_path, results=empty, jobs=[], curves=[], phases={}, summary=None)
    assert (
        figures.history(data) is figures.front(data) is figures.importance(data) is figures.time_by_phase(data) is None
    )
    assert not figures.gene_effects(data) and training_figures.worker_memory(data) is None


def test_result_without_the_metric_is_left_out(tmp_path: Path) -> None:
    screened = [make_result(), make_result(trial=1, metrics={"accuracy": math.nan})]
    data = make_run_data(tmp_path, results={"one_shot": screened, "short": [], "full": []})
    assert named(figures.history(data))["screened"]["x"] == [0]


def test_names_in_figures_are_no_markup(tmp_path: Path) -> None:
    assert plain(HOSTILE).count("<") == 0
    assert plain("a\n b" + "c" * 100, 10) == "a bcccccc…"
