import re

import pytest

from nas.cli import main
from nas.common.errors import BudgetError
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.memory.step_tracing import StepTracer, TrainingStep
from nas.memory.tracing import ShapeTracer, Trace
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run import space_summary
from nas.run.prepare import predict_memory, prepare
from nas.run.space_summary import FittingShare, fitting_share
from nas.search.space import SearchSpace
from tests.support.project import Project


def test_space_is_shown_with_the_part_that_fits(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    source = project.root / "search.yaml"
    config = load_config(source)
    memory, default = predict_memory(config, source=str(source))
    peaks = sorted(memory.predict(architecture).peak_bytes for architecture in config.space)
    budget = peaks[len(peaks) // 2]
    fitting = sum(peak <= budget for peak in peaks)
    assert main(["space", str(source), "--memory-budget", f"{budget}B"]) == 0
    said = capsys.readouterr().out
    assert "\nlittle: 48 architectures, 5 variables\n" in said
    assert f"{fitting / 48:.1%} of 48 architectures fit" in said
    assert re.search(r"^fusion_layer +model +1 +0, 1, 2$", said, re.MULTILINE)
    for name, architecture in (("smallest", config.space.smallest), ("largest", config.space.largest)):
        assert re.search(rf"^{name} +{architecture} +{memory.parameter_count(architecture):,} ", said, re.MULTILINE)
    assert f"{default} (not in the space)" in said


def test_predictions_do_not_depend_on_cached_features(project: Project) -> None:
    config = load_config(project.root / "search.yaml")
    with build_reporter() as reporter:
        prepared = prepare(config, source="", cache_directory=project.root / "cache", reporter=reporter)
    memory, default = predict_memory(config, source="")
    assert default == prepared.default
    assert all(memory.predict(entry) == prepared.memory.predict(entry) for entry in config.space)


def test_of_a_large_space_a_sample_is_predicted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(config, source="")
    budget = memory.predict(config.space.largest).peak_bytes - 1
    monkeypatch.setattr(space_summary, "_MAX_ENUMERATED", 10)
    with build_reporter() as reporter:
        share = fitting_share(config.space, memory, budget, accumulates=False, reporter=reporter)
        assert share.predicted == 400 and 0.9 < share.whole / 400 < 1 and share.in_micro_batches == 0
        cut = fitting_share(config.space, memory, budget, accumulates=True, reporter=reporter)
    assert cut == FittingShare(400, share.whole, 400 - share.whole)


@pytest.mark.parametrize("accumulates", [False, pytest.param(True, marks=pytest.mark.long)])
def test_share_that_fits_is_that_of_all_predictions(project: Project, accumulates: bool) -> None:
    config = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(config, source="")
    peaks = {architecture: memory.predict(architecture).peak_bytes for architecture in config.space}
    ordered = sorted(peaks.values())
    for budget in (ordered[0] - 1, *ordered[::6], ordered[-1]):
        whole = [architecture for architecture, peak in peaks.items() if peak <= budget]
        others = peaks.keys() - set(whole) if accumulates else set()
        cut = sum(memory.fits_in_micro_batches(architecture, budget) for architecture in others)
        with build_reporter() as reporter:
            share = fitting_share(config.space, memory, budget, accumulates=accumulates, reporter=reporter)
        assert share == FittingShare(48, len(whole), cut)


def test_one_trace_for_each_set_tells_that_everything_fits(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(project.root / "search.yaml")
    config = config.replace(
        recipe=config.recipe.replace(label_smoothing=0.125)
    )  # or traces of other tests would be used
    memory, _ = predict_memory(config, source="")
    traced = []
    trace = StepTracer.trace

    def counted(tracer: StepTracer, step: TrainingStep) -> Trace:
        traced.append(step.architecture)
        return trace(tracer, step)

    monkeypatch.setattr(StepTracer, "trace", counted)
    with build_reporter() as reporter:
        share = fitting_share(config.space, memory, 2**40, accumulates=False, reporter=reporter)
    assert share == FittingShare(48, 48, 0)
    sets = {affine.smallest for architecture in config.space if (affine := architecture.affine_memory()) is not None}
    assert len(traced) == len(set(traced)) == len(sets) < 48


def test_nothing_is_shown_before_everything_is_computed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> FittingShare:
        raise BudgetError("too small; expected more")

    monkeypatch.setattr(space_summary, "fitting_share", fail)
    assert main(["space", str(project.root / "search.yaml")]) == 2
    assert capsys.readouterr() == ("", "error: too small; expected more\n")


def test_steps_of_the_largest_batches_and_prompts_have_few_operations(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    genes = ("query_prompts", "query_context_prompts", "fusion_context_prompts", "mapping_width")
    widest = {f"space.{gene}": [1, 65_536] for gene in genes}
    source = project.write("widest.yaml", **widest, **{"recipe.batch_size": 65_536, "search.short_training_steps": 1})
    config = load_config(source)
    memory, _ = predict_memory(config, source="")
    events = []
    stop = ShapeTracer.stop

    def counted(tracer: ShapeTracer) -> Trace:
        trace = stop(tracer)
        events.append(len(trace.events))
        return trace

    monkeypatch.setattr(ShapeTracer, "stop", counted)
    assert memory.predict(config.space.largest).peak_bytes > 2**40
    assert events and max(events) < 20_000


def test_of_architectures_that_are_traced_a_small_sample_is_predicted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(project.root / "search.yaml")
    memory, _ = predict_memory(config, source="")
    monkeypatch.setattr(space_summary, "_MAX_TRACED", 5)
    genes = dict.fromkeys(config.space.choices, (0, 1)) | {"query_prompts": (1, 2), "mapping_width": (1, 2)}
    space = SearchSpace(PMFArchitecture, genes, {"query_prompts": "layer"}, num_layers=3)
    with build_reporter() as reporter:
        assert fitting_share(space, memory, 2**40, accumulates=False, reporter=reporter) == FittingShare(5, 5, 0)


def test_many_choices_are_shortened(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"space.fusion_layer": [0], "space.query_prompts": [1], "space.query_context_prompts": [0]}
    source = project.write("many.yaml", **few, **{"space.mapping_width": list(range(1, 1001))})
    assert main(["space", str(source)]) == 0
    assert re.search(r" 1, 2, .*, 12, … 1000 \(1,000 values\)$", capsys.readouterr().out, re.MULTILINE)
