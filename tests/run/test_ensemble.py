"""The ensemble of a run: chosen, exported and reported without training anything again, and distilled."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from nas.cli import main
from nas.common.errors import ExportError, StudyError
from nas.common.progress import LineReporter
from nas.config.choices import AnswerKind
from nas.execution.special_jobs import read_teacher
from nas.execution.worker_setup import teacher_path
from nas.run.choose_ensemble import choose_ensemble, full_trainings, score_function
from nas.run.directory import open_study, read_run
from nas.run.ensemble import ENSEMBLE, Ensemble, EnsembleChoice, Member, read_choice, write_choice
from nas.run.executors import ExecutionOptions
from nas.run.export import TrainedWeights, export_result
from nas.run.export_run import export_run
from nas.run.exported_model import open_exported
from nas.run.finalize import read_report
from nas.run.model_parts import ModelParts
from nas.run.prepare import prepare
from nas.run.reruns import RERUNS, RerunStore
from nas.run.roles import BEST
from nas.run.select import best_full
from nas.run.shared_weights import ENCODERS, TRAINED
from nas.search.distillation import teacher_digest
from nas.search.ensemble import Gain
from nas.search.keys import CandidateKey, RerunKey
from nas.search.objectives import Constraint
from nas.search.trial import Result
from nas.training.metrics import Predictions, mean_average_precision
from nas.training.split_logits import split_logits
from tests.run.conftest import FinishedRun
from tests.support.factories import make_result
from tests.support.project import Project, build_project
from tests.support.runs import resume_search, run_search


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with 60 validation samples, on which models differ."""
    return build_project(tmp_path_factory.mktemp("noisy") / "project", samples=300, colour_noise=200)


@pytest.fixture(scope="module")
def run(noisy: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    changes = {"search.answer": "ensemble", "search.rerun_seeds": 2, "recipe.epochs": 1, "supernet.steps": 4}
    changes["search.distill"] = True
    source = noisy.write("ensemble.yaml", **changes, **{"budget.trials": 4})
    directory = tmp_path_factory.mktemp("ensemble") / "run"
    return FinishedRun(directory, run_search(source, directory, options), options.cache)


def choose(directory: Path, options: ExecutionOptions, constraints: tuple[Constraint, ...] = ()) -> EnsembleChoice:
    """Choose the ensemble of a finished run again."""
    loaded, reporter = read_run(directory), LineReporter(io.StringIO())
    search = loaded.config.search.replace(constraints=constraints)
    config = loaded.config.replace(search=search)
    prepared = prepare(config, source="", cache_directory=options.cache, reporter=reporter)
    with open_study(directory, loaded) as study:
        return choose_ensemble(config, directory, prepared, study, reporter)


def shared_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model of a run."""
    return {**load_file(folder / ENCODERS), **load_file(folder / TRAINED)}


def pictures(project: Project) -> tuple[list[Path], list[str]]:
    paths = sorted(project.images.iterdir())[:20]
    return paths, ["apple boat", "cat"] * 10


def test_answer_is_the_mean_of_the_separately_exported_members(
    run: FinishedRun, noisy: Project, tmp_path: Path
) -> None:
    ensemble = read_choice(run.directory).ensemble
    assert ensemble is not None and 2 <= len(ensemble.members) <= 4
    loaded = read_run(run.directory)
    parts, images_and_texts = ModelParts.load(loaded.config, loaded.class_names), pictures(noisy)
    expected, sizes = torch.zeros(()), []
    for index, member in enumerate(ensemble.members):
        trained = TrainedWeights.of(run.directory, member.result, loaded.config.space)
        folder = tmp_path / str(index)
        export_result(folder, trained, parts=parts, objective="accuracy", data=loaded.config.data)
        expected = expected + member.weight * open_exported(folder).probabilities(*images_and_texts)
        sizes.append((folder / "model.safetensors").stat().st_size)
    best = run.directory / "best"
    torch.testing.assert_close(open_exported(best).probabilities(*images_and_texts), expected, rtol=0, atol=1e-6)
    shared = (len(sizes) - 1) * 4 * sum(tensor.numel() for tensor in load_file(best / ENCODERS).values())
    size = sum((best / name).stat().st_size for name in (ENCODERS, TRAINED))
    assert size < sum(sizes) - 0.9 * shared, "the encoders are there once"
    assert "ensemble of" in (best / "README.md").read_text() and "members:" in (best / "architecture.yaml").read_text()


def test_report_names_the_ensemble_its_gain_and_its_costs(run: FinishedRun) -> None:
    report = json.loads((run.directory / "report.json").read_text())["best"]
    ensemble = read_choice(run.directory).ensemble
    assert ensemble is not None
    assert report["members"] == ensemble.member_dicts() and report["validation"] == dict(ensemble.metrics)
    parts = [member.result for member in ensemble.members]
    assert report["predicted_peak_bytes"] == max(result.predicted_peak_bytes for result in parts)
    assert report["latency_seconds"] > 0 and report["file_bytes"] > 0 and report["test_samples"] == 60
    assert "ensemble of" in run.output and "cross-fitted" in run.output and "it is the answer" in run.output
    assert "best single model" in run.output and "Disk: up to" in run.output


def test_export_answers_as_it_is_asked(run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, members in (
        ([], True),
        (["--answer", "ensemble"], True),
        (["--pick", "answer"], True),
        (["--answer", "single"], False),
        (["--pick", "best"], False),
    ):
        folder = tmp_path / "-".join(["model", *words])
        assert main(["export", str(run.directory), "--output", str(folder), *words]) == 0
        said = capsys.readouterr().out
        config = json.loads((folder / "config.json").read_text())
        assert bool(config["members"]) == ("ensemble of" in said) == members
        if members:
            one, other = load_file(folder / "model.safetensors"), shared_tensors(run.directory / "best")
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
            assert "test accuracy" in (folder / "README.md").read_text(), "its test metrics are known"


def test_export_of_a_single_model_is_that_of_the_report_with_the_seed_that_the_race_preferred(
    run: FinishedRun, finished: FinishedRun, tmp_path: Path
) -> None:
    known, entry = read_choice(finished.directory), read_report(finished.directory)[BEST]
    assert known.single is not None and known.single.as_dict() == entry["result"] and known.role == entry["role"]

    directory = Path(shutil.copytree(run.directory, tmp_path / "run"))
    choice, raced = read_choice(directory), RerunStore(directory / RERUNS).results()[-1]

    def exported(*words: str) -> tuple[object, int]:
        assert main(["export", str(directory), "--output", str(tmp_path / "model"), *words]) == 0
        described = yaml.safe_load((tmp_path / "model" / "architecture.yaml").read_text())
        return described["trial"], described["seed"]

    write_choice(directory, replace(choice, best=raced, role="best", simple=None))  # as if its mean were the highest
    assert best_full(directory) == raced
    for words in (["--answer", "single"], ["--pick", "best"]):
        assert exported(*words) == (raced.key.name, raced.seed)
    write_choice(directory, replace(choice, best=replace(raced, stage="short"), role="best", simple=None))
    assert exported("--pick", "best")[1] != raced.seed, "the search has got further than its report"


def test_lost_and_damaged_logits_are_computed_again(run: FinishedRun, options: ExecutionOptions) -> None:
    known = choose(run.directory, options).ensemble
    first, second, *others = sorted((run.directory / "logits").iterdir())
    contents = [path.read_bytes() for path in (first, second)]
    assert known is not None and others
    first.unlink()
    second.write_bytes(contents[1][:-3])
    again = choose(run.directory, options).ensemble
    assert again is not None and again.member_dicts() == known.member_dicts() and again.gain == known.gain
    for path, content in zip((first, second), contents, strict=True):
        before, after = (
            torch.frombuffer(bytearray(entry[-36:]), dtype=torch.float32) for entry in (content, path.read_bytes())
        )
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_lost_weights_are_left_out_and_damaged_ones_are_named(
    run: FinishedRun, options: ExecutionOptions, tmp_path: Path
) -> None:
    ensemble = read_choice(run.directory).ensemble
    assert ensemble is not None
    copy, lost = Path(shutil.copytree(run.directory, tmp_path / "copy")), ensemble.members[0].result
    path = copy / "full" / f"{lost.key.name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"cannot be loaded: the checksum does not match.*restore the file"):
        choose(copy, options)
    path.unlink()
    others = choose(copy, options).ensemble
    assert others is None or all(member.result.key != lost.key for member in others.members)


def test_constraints_bound_the_sum_over_the_members(run: FinishedRun, options: ExecutionOptions) -> None:
    loaded = read_run(run.directory)
    with open_study(run.directory, loaded) as study:
        trainings = full_trainings(run.directory, study)
    assert len({result.key for result in trainings}) == len(trainings) > 4
    assert any(isinstance(result.key, RerunKey) for result in trainings)
    too_few = choose(run.directory, options, (Constraint("trainable_parameters", 1),))
    assert too_few.ensemble is None and too_few.reason.startswith("it takes two complete trainings, and 0 can")
    not_met = choose(run.directory, options, (Constraint("accuracy", 1.0),))
    assert not_met.ensemble is None and "do not meet accuracy >= 1" in not_met.reason


def test_concluded_run_is_resumed_without_choosing_another_answer(run: FinishedRun, options: ExecutionOptions) -> None:
    before = (run.directory / ENSEMBLE).read_bytes()
    output = resume_search(run.directory, options)
    assert "evaluating" not in output and (run.directory / ENSEMBLE).read_bytes() == before


@pytest.mark.long
def test_small_validation_has_no_ensemble_and_says_so(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "no ensemble: validation has 12 samples, and choosing members takes at least 50"
    assert sentence in finished.output
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "m"), "--answer", "ensemble"]) == 2
    assert "has no ensemble: validation has 12 samples" in capsys.readouterr().err
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "m"), "--answer", "auto"]) == 0


def test_automatic_answer_takes_the_ensemble_where_its_gain_is_not_luck() -> None:
    members = (
        Member(make_result(stage="full"), 0.6),
        Member(make_result(key=RerunKey(CandidateKey(0), 1), stage="full"), 0.4),
    )
    sure, unsure = (EnsembleChoice(Ensemble(members, {"accuracy": 0.9}, Gain(0.02, error))) for error in (0.01, 0.02))
    taken: list[tuple[AnswerKind, bool, bool]] = [
        ("auto", True, False),
        ("ensemble", True, True),
        ("single", False, False),
    ]
    for kind, first, second in taken:
        assert (sure.answer(kind) is not None, unsure.answer(kind) is not None) == (first, second)
    assert sure.lines("auto", "accuracy")[0].endswith("interval from +0.004); it is the answer")
    assert "this may be luck, so the answer is a single model" in unsure.lines("auto", "accuracy")[0]
    assert "#0 × 0.60, #0 with further seed 1 × 0.40" in sure.lines("auto", "accuracy")[0]
    stored = Ensemble.from_dict(json.loads(json.dumps(sure.ensemble.as_dict() if sure.ensemble else None)))
    assert stored == sure.ensemble


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"members": []}, r"members: is no list of members"),
        ({"weight": 0.123}, r"members: their weights do not add up; expected a sum of 1"),
        ({"weight": -0.1}, r"members\[0\].weight: not allowed"),
        ({"weight": float("nan")}, r"members\[0\].weight: not allowed"),
        ({"architecture": {"family": "pmf"}}, r"members\[0\].architecture: not allowed"),
    ],
)
def test_damaged_members_are_named(run: FinishedRun, tmp_path: Path, change: dict[str, object], problem: str) -> None:
    folder = Path(shutil.copytree(run.directory / "best", tmp_path / "model"))
    values = json.loads((folder / "config.json").read_text())
    if "members" in change:
        values.update(change)
    else:
        values["members"][0].update(change)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ExportError, match=problem):
        open_exported(folder, accept_changed=True, on_note=lambda note: None)


def test_score_of_several_labels_is_that_of_the_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(40, 3, generator=generator) < 0.3).float()
    rows = np.array([3, 5, 5, 8, 13, 21, 34])
    score = score_function("mean_average_precision", labels)
    value, tie = score(logits.sigmoid().numpy()[rows], rows)
    assert value == pytest.approx(mean_average_precision(Predictions(logits[rows], labels[rows])))
    assert tie == pytest.approx(
        -torch.nn.functional.binary_cross_entropy_with_logits(logits[rows], labels[rows].double()).item()
    )


def test_distilled_model_learns_from_the_members_of_the_ensemble(
    run: FinishedRun, noisy: Project, options: ExecutionOptions
) -> None:
    choice, loaded = read_choice(run.directory), read_run(run.directory)
    assert choice.ensemble is not None and choice.distilled is not None
    digest = teacher_digest(choice.ensemble.member_dicts())
    stored = RerunStore(run.directory / "distilled.json").results()
    assert sorted(result.key.name for result in stored) == [f"distilled_{digest}_0", f"distilled_{digest}_1"]
    assert choice.distilled == max(stored, key=lambda result: (result.score, -result.metrics["cross_entropy"]))
    trained = [member.result for member in choice.ensemble.members if not member.result.key.name.endswith("linear")]
    assert {result.architecture for result in stored} == {trained[0].architecture}
    assert len({result.seed for result in stored}) == 2

    prepared = prepare(loaded.config, source="", cache_directory=options.cache, reporter=LineReporter(io.StringIO()))
    split, parts = prepared.store.splits["train"], ModelParts.load(loaded.config, loaded.class_names)
    logits = read_teacher(teacher_path(run.directory, digest), digest, (len(split), len(loaded.class_names)))
    assert logits is not None
    expected = torch.zeros(())
    for member in choice.ensemble.members:
        model = TrainedWeights.of(run.directory, member.result, loaded.config.space).load(parts)
        own = split_logits(model, split, batch_size=4, precision="float32")
        expected = expected + member.weight * own.softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), expected, rtol=1e-4, atol=1e-6)


def test_distilled_model_is_exported_and_reported(run: FinishedRun, tmp_path: Path) -> None:
    choice = read_choice(run.directory)
    assert choice.distilled is not None
    entry = read_report(run.directory)["distilled"]
    assert Result.from_dict(entry["result"]) == choice.distilled and entry["test_samples"] > 0
    assert "Phase: distillation" in run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("- distilled from the ensemble")]
    assert "mean of 2 seeds" in line and "95 % interval" in line
    exported = export_run(
        run.directory, tmp_path / "model", trial=None, how=("distilled", 0.0), storage=None, answer="single"
    )
    assert exported == choice.distilled
    one, other = load_file(tmp_path / "model" / "model.safetensors"), shared_tensors(run.directory / "distilled")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def turn(directory: Path, *, distill: bool) -> None:
    """Edit the configuration of a run."""
    path = directory / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["search"]["search"]["distill"] = distill
    path.write_text(yaml.safe_dump(values))


def test_distillation_is_resumed_and_not_repeated(run: FinishedRun, options: ExecutionOptions, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.directory, tmp_path / "copy"))
    before = RerunStore(copy / "distilled.json").results()
    assert "Phase: distillation" not in resume_search(copy, options)
    # Turned off and, as after a kill in the second training and the loss of the ensemble's logits, on again.
    turn(copy, distill=False)
    assert "Phase: distillation" not in resume_search(copy, options)
    assert "distilled" not in read_report(copy) and read_choice(copy).distilled is None
    turn(copy, distill=True)
    (copy / "distilled.json").unlink()
    RerunStore(copy / "distilled.json").add(before[0])
    shutil.rmtree(copy / "teacher")
    assert "Phase: distillation" in resume_search(copy, options)
    again = RerunStore(copy / "distilled.json").results()
    assert [(result.key, result.seed, result.metrics) for result in again] == [
        (result.key, result.seed, result.metrics) for result in before
    ]
    assert "distilled" in read_report(copy)
