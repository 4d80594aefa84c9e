"""Searches over arms on the small project: halving, one budget, arms that are left out, kills and resumption."""

import io
import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

import nas
from nas.cli import main
from nas.common.errors import ArgumentError, ArmsError, BudgetError, StudyError
from nas.common.progress import LineReporter
from nas.config.load import load_arms
from nas.config.overrides import Overrides
from nas.execution.worker import CandidateWorker
from nas.models.classifier import FusionForClassification
from nas.run.arms.arm_run import ArmRun
from nas.run.arms.arms_search import ArmsSearch
from nas.run.arms.directory import (
    ArmsRun,
    arm_directory,
    is_arms_run,
    read_arms_run,
    with_precision,
    write_arms_run,
)
from nas.run.arms.report import answering_run, read_arms_report
from nas.run.arms.state import STATE, ArmsState, TrialRecord
from nas.run.commands import resume, start
from nas.run.dashboard import runs_to_view
from nas.run.directory import read_run
from nas.run.executors import ExecutionOptions
from nas.run.finalize import REPORT, read_report
from nas.run.html_report.write import HTML_REPORT
from nas.run.recipe_file import RECIPE, RecipeFile
from nas.run.roles import BEST
from nas.run.time_budget import TimeAccount, time_file
from nas.search.arm_halving import ArmScores
from nas.search.trial import STAGES, Job
from nas.storage.backends.journal import LOCK
from nas.storage.lease import Holder
from nas.storage.viewing import ReadOnlyStorage
from tests.support.project import Project, build_project
from tests.support.runs import Killed, results_of, without_measurements

LITTLE: dict[str, Any] = {
    "budget.trials": 3,
    "supernet.steps": 3,
    "search.round_size": 3,
    "search.short_training_steps": 1,
    "search.finalists": 1,
    "recipe.epochs": 1,
    "deterministic": True,
    "space": {
        "pmf": {
            "fusion_layer": [1, 2],
            "query_context_prompts": [0],
            "fusion_context_prompts": [1],
            "mapping_width": [4],
        }
        | {"query_prompts": [1, 2]},
        "vpt": {"prompt_layer": [2, 3], "prompts": [1, 2]},
    },
    "family": ["pmf", "vpt"],
}
ARMS = ["vit+bert+pmf", "vit+bert+vpt"]


def run_arms(source: Path, directory: Path, options: ExecutionOptions, **overrides: Any) -> str:
    """Start a search; returns its output."""
    stream = io.StringIO()
    start(source, directory, Overrides(**overrides), options, LineReporter(stream))
    return stream.getvalue()


def resume_arms(directory: Path, options: ExecutionOptions, **overrides: Any) -> str:
    """Resume a search; returns its output."""
    stream = io.StringIO()
    resume(directory, Overrides(**overrides), options, LineReporter(stream))
    return stream.getvalue()


def state_of(directory: Path) -> ArmsState:
    return ArmsState(directory / STATE, read_arms_run(directory).names)


def outcome(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what equal searches have in common: decisions, trials and the results of the arm that answers."""
    state = json.loads((directory / STATE).read_text())
    for trial in state["trials"].values():
        for model in trial["models"]:
            del model["predicted_peak_bytes"]  # which contains a measured constant of the process
    del state["crc32"]
    return state, without_measurements(results_of(answering_run(directory)))


@dataclass(frozen=True)
class FinishedArms:
    """A finished search over two arms, and a third whose encoder is missing; tests must not change it."""

    source: Path
    directory: Path
    output: str


@pytest.fixture(scope="module")
def finished_arms(
    project: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory
) -> FinishedArms:
    source = project.write("arms.yaml", **LITTLE, encoders={"image": "./vit", "text": ["./bert", "./missing"]})
    directory = tmp_path_factory.mktemp("arms") / "run"
    return FinishedArms(source, directory, run_arms(source, directory, options))


@pytest.mark.long
def test_dashboard_shows_every_arm_that_was_reached(finished_arms: FinishedArms) -> None:
    with closing(ReadOnlyStorage(runs_to_view(finished_arms.directory))) as storage:
        names = [study.study_name for study in storage.get_all_studies()]
    assert names == [f"{arm}/{stage}" for arm in ARMS for stage in STAGES]


def test_arms_are_compared_and_the_better_one_is_searched(finished_arms: FinishedArms) -> None:
    directory, state = finished_arms.directory, state_of(finished_arms.directory)
    assert state.winner in ARMS and list(state.trials) == ARMS
    for name in ARMS:
        file = RecipeFile(arm_directory(directory, name) / RECIPE)
        assert [file.scores()[0, 0]] == list(state.trials[name].scores.default), "one training of the default each"
        assert (arm_directory(directory, name) / "linear.json").exists()
    values = {name: state.trials[name].scores.value(1) for name in ARMS}
    assert values[state.winner] == max(values.values())
    for name in ARMS:
        counts = [len(results) for results in results_of(arm_directory(directory, name)).values()]
        assert counts[0] == (3 if name == state.winner else 0), "the trials are one budget"


def test_encoder_that_cannot_be_loaded_is_named_and_left_out(finished_arms: FinishedArms) -> None:
    state = state_of(finished_arms.directory)
    assert list(state.left_out) == ["vit+missing+pmf", "vit+missing+vpt"]
    assert all("missing" in entry.reason and entry.needed_bytes is None for entry in state.left_out.values())
    assert "Arm vit+missing+pmf is left out: " in finished_arms.output
    assert not arm_directory(finished_arms.directory, "vit+missing+pmf").exists(), "made only when it is reached"


def test_answer_and_report_stand_in_the_outer_directory(
    finished_arms: FinishedArms, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    directory = finished_arms.directory
    report, winner = read_arms_report(directory), state_of(directory).winner
    assert winner is not None
    assert report["arm"] == winner and report["best"]["test_samples"] == 12
    inner = json.loads((answering_run(directory) / REPORT).read_text())
    assert report["best"] == inner[BEST]
    model = FusionForClassification.from_pretrained(directory / BEST)
    assert model.config.architecture == inner[BEST]["architecture"]
    assert f"The answer is that of arm {winner}" in finished_arms.output
    page = (directory / HTML_REPORT).read_text()
    assert f"arms, {winner} was chosen." in page and "Final evaluation" in page
    assert f'href="arms/{quote(winner)}/report.html"' in page
    assert f"Report: {directory / HTML_REPORT}" in finished_arms.output
    assert "cannot be written" not in finished_arms.output

    words = ["export", str(directory), "--output", str(tmp_path / "model"), "--pick", "best"]
    assert main(words) == 0
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architecture"]["family"] == winner.rpartition("+")[2]
    data = [
        "--data",
        str(finished_arms.source.parent / "manifest.csv"),
        "--images",
        str(finished_arms.source.parent / "images"),
    ]
    assert main(["evaluate", str(directory / BEST), *data]) == 0
    assert f"accuracy: {report['best']['test']['accuracy']:.6f}" in capsys.readouterr().out


def test_arms_are_one_run_in_python(finished_arms: FinishedArms, project: Project) -> None:
    run, state = nas.open_run(finished_arms.directory), state_of(finished_arms.directory)
    winner = state.winner
    assert winner is not None
    inner = arm_directory(run.directory, winner)
    assert run.state == "finished" and run.report["arm"] == winner and run.report["best"] == read_report(inner)[BEST]
    alone = nas.open_run(inner)
    assert run.verdict == alone.verdict and run.reliability == alone.reliability
    trials = run.trials
    assert trials.columns[0] == "arm" and set(trials["arm"]) == {winner}, "the others have no candidates"
    pd.testing.assert_frame_equal(trials.drop(columns="arm"), alone.trials)
    assert (trials["trainable_parameters"] > 0).all()
    assert run.best is not None and alone.best is not None and run.best == {"arm": winner, **alone.best}
    assert set(run.front["arm"]) == {winner} and list(run.front["trial"]) == list(alone.front["trial"])
    counts = [len(results) for results in results_of(inner).values()]
    assert f"finished: {counts[0]} screened, {counts[1]} trained briefly" in repr(run)
    assert run.verdict in run._repr_html_() and run._repr_html_().count("<tr>") == 2
    assert run.plot_history().to_dict() == alone.plot_history().to_dict()
    frame = pd.read_csv(project.manifest).head(3)
    paths = [project.images / name for name in frame["image"]]
    probabilities = [
        nas.load(folder, device="cpu").predict_proba(paths, list(frame["text"]))
        for folder in (inner / BEST, run.directory / BEST)
    ]
    assert (run.load(device="cpu").predict_proba(paths, list(frame["text"])) == probabilities[0]).all(axis=None)
    assert (probabilities[0] == probabilities[1]).all(axis=None)
    assert run.load("default", device="cpu").directory == inner / "default"
    weights = sorted((inner / BEST).glob("*.safetensors"))
    assert weights and all(path.samefile(run.directory / BEST / path.name) for path in weights), "one file on disk"


def test_run_whose_arms_are_still_compared_has_no_answer(finished_arms: FinishedArms, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished_arms.directory, tmp_path / "run"))
    shutil.rmtree(copy / BEST)
    (copy / "report.json").unlink()
    state = state_of(copy)
    state.rungs.clear()
    state.record(ARMS[0], state.trials[ARMS[0]])
    run = nas.open_run(copy)
    assert run.state == "stopped" and run.best is None and run.report == {} and run.reliability == []
    assert run.verdict == "There is no verdict yet: the search is stopped; continue it with resume()."
    assert set(run.trials["arm"]) <= set(ARMS) and "<table>" not in run._repr_html_()
    for call in (run.plot_history, run.load):
        with pytest.raises(nas.NasError, match=r"continue (the search )?with resume\(\)"):
            call()
    with pytest.raises(nas.NasError, match=r"none of its arms is chosen yet"):
        run.export(tmp_path / "model")
    (copy / LOCK).write_text(json.dumps(asdict(Holder.current())))
    assert run.state == "running"


def test_front_has_the_models_that_nothing_beats_in_metric_and_cost(finished_arms: FinishedArms) -> None:
    models = read_arms_report(finished_arms.directory)["models"]
    assert [(entry["arm"], entry["model"]) for entry in models[:-1]] == [
        (name, model) for name in ARMS for model in ("default", "linear")
    ]
    assert models[-1]["model"] == BEST
    for title, cost in (("training memory", "predicted_peak_bytes"), ("parameters", "trainable_parameters")):
        for entry in models:
            is_beaten = any(
                other["score"] >= entry["score"]
                and other[cost] <= entry[cost]
                and (other["score"], other[cost]) != (entry["score"], entry[cost])
                for other in models
            )
            assert (title in entry["fronts"]) is not is_beaten
    linear = next(entry for entry in models if entry["model"] == "linear")
    assert linear["trainable_parameters"] == (24 + 16) * 3 + 3


def test_finished_search_has_nothing_left_to_run(
    finished_arms: FinishedArms, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(finished_arms.directory, tmp_path / "copy"))
    (copy / BEST / "config.json").unlink()
    before = outcome(copy)
    (copy / STATE).unlink()  # the arms have all that they were compared by
    monkeypatch.setattr(CandidateWorker, "run", lambda *arguments, **named: pytest.fail("something is trained"))
    output = resume_arms(copy, options)
    assert "evaluating" not in output and outcome(copy) == before
    assert (copy / BEST / "config.json").exists(), "a damaged copy of the answer is copied again"


class _Deaths:
    """Kills the program at the n-th of some calls."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.long
@pytest.mark.parametrize("calls", ["training", "state"])
def test_killed_search_goes_on_where_it_was(
    finished_arms: FinishedArms,
    options: ExecutionOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: str,
) -> None:
    run, record = CandidateWorker.run, ArmsState.record
    trained: list[str] = []
    deaths = _Deaths(0)

    def train(self: CandidateWorker, job: Job, **options: Any) -> Any:
        found = run(self, job, **options)
        if calls == "training":
            deaths()  # before the result is stored
        trained.append(f"{job.architecture.family} {job.key.name} {job.stage}")
        return found

    def note(self: ArmsState, *arguments: Any) -> None:
        if calls == "state":
            deaths()
        record(self, *arguments)

    monkeypatch.setattr(CandidateWorker, "run", train)
    monkeypatch.setattr(ArmsState, "record", note)
    directory = tmp_path / "run"
    steps: list[Callable[[], str]] = [lambda: run_arms(finished_arms.source, directory, options)]
    steps += [lambda: resume_arms(directory, options)] * 4
    for number, step in zip((1, 2, 2, 3, 0), steps, strict=True):
        deaths.left = number
        try:
            step()
        except Killed:
            continue
        break
    assert outcome(directory) == outcome(finished_arms.directory)
    assert len(set(trained)) == len(trained), "nothing that is stored is trained again"


@pytest.mark.long
def test_arm_that_does_not_fit_leaves_the_others(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    source = project.write(
        "memory.yaml",
        **LITTLE | {"family": ["mbt", "vpt"], "space": {"mbt": {"fusion_layer": [1], "bottlenecks": [1, 2]}}},
    )
    needs = {}
    for arm in load_arms(source):
        small = replace(arm, config=Overrides(memory_bytes=1).apply(arm.config))
        run = ArmRun(tmp_path, small, options, LineReporter(io.StringIO()), source="x")
        with pytest.raises(BudgetError) as caught:
            run.check()
        assert caught.value.needed_bytes is not None
        needs[arm.name] = caught.value.needed_bytes
    mbt, vpt = needs["vit+bert+mbt"], needs["vit+bert+vpt"]
    assert vpt < mbt
    with pytest.raises(ArmsError, match=r"none of its 2 arms can be searched; expected a memory budget of") as refused:
        run_arms(source, tmp_path / "none", options, memory_bytes=vpt // 2)
    assert re.search(r"which vit\+bert\+vpt needs:\n  - vit\+bert\+mbt: .*\n  - vit\+bert\+vpt: ", str(refused.value))
    assert not (tmp_path / "none").exists(), "nothing is written"

    output = run_arms(source, tmp_path / "run", options, memory_bytes=(mbt + 2 * vpt) // 3)
    state = state_of(tmp_path / "run")
    assert state.winner == "vit+bert+vpt" and not state.trials, "a single arm needs no comparison"
    assert list(state.left_out) == ["vit+bert+mbt"] and "Left out: vit+bert+mbt (from " in output


def test_missing_encoders_of_all_arms_are_one_error(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write(
        "gone.yaml",
        **LITTLE | {"encoders": {"image": "./vit", "text": ["./x", "./y"]}, "family": "pmf", "space": "auto"},
    )
    with pytest.raises(ArmsError, match=r"(?s)none of its 2 arms can be searched:.*vit\+x\+pmf: .*vit\+y\+pmf: "):
        run_arms(source, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_disk_space_is_divided_and_an_arm_without_enough_is_left_out(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    source = project.write("disk.yaml", **LITTLE, features={"disk": "40KiB"})
    hint = "features.storage: none caches no tokens"
    lines = rf"(?s)vit\+bert\+pmf: features.disk: .* got 20.00 KiB; {hint}\n.*vit\+bert\+vpt: features.disk"
    with pytest.raises(ArmsError, match=lines):
        run_arms(source, tmp_path / "run", replace(options, cache_directory=tmp_path / "cache"))
    assert not (tmp_path / "run" / "arms").exists()


@pytest.mark.long
def test_all_arms_have_one_time_budget(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    changes = {"deterministic": False, "budget.trials": None, "budget.time": "1s"}
    source, run = project.write("timed.yaml", **LITTLE | changes), tmp_path / "run"
    with pytest.raises(BudgetError, match=r"too small to compare 2 arms; .* a larger budget: .* resume "):
        run_arms(source, run, options, time_seconds=0.001)
    assert not state_of(run).rungs and not state_of(run).left_out, "nothing is decided without a score"

    resume_arms(run, options, time_seconds=600.0, trials=2)
    winner = state_of(run).winner
    (other,) = (arm_directory(run, name) for name in ARMS if name != winner)
    left = 600.0 - TimeAccount(time_file(other)).spent_seconds
    assert read_run(answering_run(run)).config.budget.time_seconds == pytest.approx(left)


def test_arm_that_had_no_time_is_left_out_and_the_others_are_compared_by_what_all_have(
    options: ExecutionOptions, finished_arms: FinishedArms, tmp_path: Path
) -> None:
    """Scores of a rung that was cut short, without training."""
    run = read_arms_run(finished_arms.directory)
    state = ArmsState(tmp_path / STATE, run.names)
    row = state_of(finished_arms.directory).trials[ARMS[0]].models
    for name, default in zip(run.names, ([0.5], [0.6, 0.1], [0.4, 0.9]), strict=False):
        state.record(name, TrialRecord(ArmScores(default), row))
    stream = io.StringIO()
    ArmsSearch(tmp_path, run, options, LineReporter(stream), source="x").decide()
    decided = ArmsState(tmp_path / STATE, run.names)
    assert decided.rungs == [["vit+bert+vpt", "vit+bert+pmf"]] and list(decided.left_out) == ["vit+missing+vpt"]
    assert "Going on: vit+bert+vpt, vit+bert+pmf; dropped: vit+missing+pmf" in stream.getvalue()


@pytest.mark.long
def test_moved_search_is_found_again(options: ExecutionOptions, finished_arms: FinishedArms, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished_arms.directory, tmp_path / "elsewhere"))
    project = build_project(tmp_path / "data")
    places = {"data": str(project.manifest), "images": str(project.images), "image_encoder": str(project.root / "vit")}
    resume_arms(copy, options, **places)
    assert read_run(answering_run(copy)).config.data.manifest == str(project.manifest)
    with pytest.raises(ArgumentError, match="--text-encoder x: expected a search with one text encoder, got 2"):
        resume_arms(copy, options, text_encoder="x")
    with pytest.raises(ArgumentError, match="--warm-start y: expected a search file with one arm"):
        resume_arms(copy, options, warm_start=Path("y"))


def test_directories_of_one_and_of_several_arms_are_not_mixed_up(
    project: Project, options: ExecutionOptions, finished_arms: FinishedArms
) -> None:
    directory = finished_arms.directory
    assert is_arms_run(directory) and not is_arms_run(answering_run(directory))
    one = project.write("one.yaml", **LITTLE | {"family": "pmf", "space": "auto"})
    with pytest.raises(StudyError, match="holds a search over several encoders or families; expected the run of one"):
        run_arms(one, directory, options)
    with pytest.raises(StudyError, match="holds a search of one arm; expected a search over several"):
        run_arms(finished_arms.source, answering_run(directory), options)
    other = project.write(
        "other.yaml", **LITTLE | {"seed": 7, "encoders": {"image": "./vit", "text": ["./bert", "./missing"]}}
    )
    with pytest.raises(StudyError, match=r"differs from .*\n  - seed: 1 → 7"):
        run_arms(other, directory, options)
    fewer = project.write("fewer.yaml", **LITTLE)
    with pytest.raises(StudyError, match=r"  - arms: vit\+bert\+pmf, .* → vit\+bert\+pmf, vit\+bert\+vpt"):
        run_arms(fewer, directory, options)


@pytest.mark.long
def test_space_describes_every_arm(finished_arms: FinishedArms, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", str(finished_arms.source)]) == 0
    output = capsys.readouterr().out
    assert output.count("architectures fit") == 2 and output.count("Left out by a search: ") == 2


def test_all_arms_have_one_precision_in_all_sessions(
    project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    left_open = project.write("open_arms.yaml", **LITTLE, **{"recipe.precision": "auto"})
    run = with_precision(ArmsRun(tuple(load_arms(left_open))), "bfloat16")
    write_arms_run(tmp_path, run)
    assert {arm.config.recipe.precision for arm in read_arms_run(tmp_path).arms} == {"bfloat16"}
    reporter = LineReporter(io.StringIO())
    with pytest.raises(StudyError, match=r'recipe\.precision: "bfloat16" → "float32"'):
        resume(tmp_path, Overrides(precision="float32"), options, reporter)
    with pytest.raises(StudyError, match=r'recipe\.precision: "bfloat16" → "float32"'):
        start(project.write("arms32.yaml", **LITTLE), tmp_path, Overrides(), options, reporter)
