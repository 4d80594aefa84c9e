"""The command line as users see it: exit status, standard output, standard error."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import main
from nas.models.encoders.pretrained import load_tokenizer
from tests.support.paths import REPOSITORY
from tests.support.project import Project


@pytest.fixture(scope="module")
def run(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "run"
    cache = str(directory.parent / "cache")
    arguments = [str(project.root / "search.yaml"), "--run-dir", str(directory), "--workers", "0", "--cache-dir", cache]
    assert main(["search", *arguments, "--budget", "5"]) == 0
    return directory


def test_run_is_searched_resumed_exported_evaluated_and_used(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(run.parent / "cache")
    assert main(["resume", str(run), "--budget", "6", "--workers", "0", "--cache-dir", cache]) == 0
    assert "Search: 6 screened" in capsys.readouterr().out
    assert main(["export", str(run), "--output", str(tmp_path / "model")]) == 0
    assert "Exported model:" in capsys.readouterr().out

    data = ["--data", str(project.manifest), "--images", str(project.images)]
    assert main(["evaluate", str(tmp_path / "model"), *data]) == 0
    printed = capsys.readouterr().out.splitlines()[0]
    reported = json.loads((run / "report.json").read_text())["best"]["test"]["accuracy"]
    assert printed.startswith(f"accuracy: {reported:.6f} ")

    picture = str(project.images / "000.png")
    assert main(["predict", str(tmp_path / "model"), "--image", picture, "--text", "apple"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines} == {"red", "green", "blue"}
    assert sum(float(line.split(":")[1]) for line in lines) == pytest.approx(1, abs=1e-3)


def test_scored_candidates_are_exported_by_number(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--output", str(tmp_path / "a"), "--trial", "999"]) == 2
    error = capsys.readouterr().err
    known = error.strip().rsplit("expected one of ", 1)[1].split(", ")
    assert main(["export", str(run), "--output", str(tmp_path / "a"), "--trial", known[-1]]) == 0
    assert f"(trial {known[-1]}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "none.yaml"], "none.yaml: 1 problem"),
        (["search", "{search}", "--budget", "soon"], "--budget: invalid value; expected a time"),
        (
            ["search", "{search}", "--memory-budget", "2"],
            "--memory-budget: invalid value; expected a number with a unit",
        ),
        (["search", "{search}", "--budget", "²"], "--budget: invalid value; expected a time"),
        (["search", "{search}", "--run-dir", "{search}"], "Not a directory"),
        (
            ["search", "{search}", "--cache-dir", "{search}", "--workers", "0"],
            "not a directory); expected a writable directory; choose one with --cache-dir",
        ),
        (["resume", "no_run"], "no_run: holds no run"),
        (["export", "no_run", "--output", "x"], "no_run: holds no run"),
        (
            ["export", "no_run", "--output", "x", "--pick", "worst"],
            "--pick: invalid value; expected answer, best, knee, linear, bilinear, distilled, or smal",
        ),
        (["evaluate", "no_model", "--data", "x.csv"], "no_model: holds no exported model"),
        (["predict", "no_model", "--image", "none.png", "--text", "x"], "none.png: cannot be read: no such file"),
    ],
)
def test_invalid_argument_is_one_error_and_status_two(
    project: Project, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(search=project.root / "search.yaml") for argument in arguments]
    assert main(filled) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and expected in captured.err and "Traceback" not in captured.err


@pytest.mark.long
def test_unreadable_images_stop_the_search_or_are_skipped_if_allowed(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_project.images / "000.png").write_bytes(b"no picture")
    (own_project.images / "003.png").unlink()
    common = ["--workers", "0", "--cache-dir", str(tmp_path / "cache"), "--budget", "2"]
    assert main(["search", str(own_project.root / "search.yaml"), "--run-dir", str(tmp_path / "a"), *common]) == 2
    assert "2 of 60 images are missing or cannot be read: 000.png, 003.png" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    tolerant = own_project.write("tolerant.yaml", **{"data.skip_unreadable_images": True})
    assert main(["search", str(tolerant), "--run-dir", str(tmp_path / "b"), *common]) == 0
    shown = capsys.readouterr().out
    assert "Skipped: 2 of 60 images" in shown
    assert re.search(r"\nTexts longer than 8 tokens are cut: \d+\.\d% of all\n", shown)
    manifest, images = own_project.root / "manifest.csv", own_project.images
    train = sum(line.endswith(",train") for line in manifest.read_text().splitlines())
    model = ["evaluate", str(tmp_path / "b" / "best"), "--data", str(manifest), "--images", str(images)]
    assert main([*model, "--split", "train"]) == 0
    assert f"with {train - 2} samples" in capsys.readouterr().out, "an evaluation leaves them out as well"


def test_all_rows_of_a_manifest_without_splits_are_evaluated(
    project: Project, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [line.rpartition(",") for line in project.manifest.read_text().splitlines()]
    assert table[0][2] == "split"
    new = tmp_path / "new.csv"
    new.write_text("".join(f"{row}\n" for row, _, split in table if split in ("split", "test")))
    images = ["--images", str(project.images)]
    assert main(["evaluate", str(run / "best"), "--data", str(new), *images]) == 0
    shown = capsys.readouterr().out.splitlines()
    count = len(table) - 1 - sum(split != "test" for _, _, split in table[1:])
    assert shown[-1] == f"note: {new}: has no column of splits; all {count} samples are evaluated"
    assert main(["evaluate", str(run / "best"), "--data", str(project.manifest), *images]) == 0
    assert capsys.readouterr().out.splitlines() == shown[:-1], "the split column is respected where it exists"
    assert main(["evaluate", str(run / "best"), "--data", str(project.manifest), *images, "--split", "all"]) == 0
    assert f"all {len(table) - 1} samples" in capsys.readouterr().out
    assert main(["evaluate", str(run / "best"), "--data", str(new), *images, "--split-column", "part"]) == 2
    assert "column 'part' is missing" in capsys.readouterr().err
    lines = [json.dumps(dict(zip(("image", "text", "label"), row.split(","), strict=True))) for row, _, _ in table[1:]]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    assert main(["evaluate", str(run / "best"), "--data", str(tmp_path / "new.jsonl"), *images]) == 0
    assert f"all {len(table) - 1} samples" in capsys.readouterr().out


def test_space_too_deep_for_the_encoders_is_refused(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = project.write("deep.yaml", **{"space.fusion_layer": [0, 3], "data.max_text_tokens": 64})
    assert main(["search", str(deep), "--run-dir", str(tmp_path / "run"), "--workers", "0"]) == 2
    error = capsys.readouterr().err
    depths = "the encoders have 4 and 3 layers"
    assert f"space.fusion_layer: too large; expected at most 2, since {depths}, got 3" in error
    positions = "the positions of the text encoder"
    assert f"data.max_text_tokens: too large; expected at most 20, {positions}, got 64" in error


def test_encoders_that_do_not_match_their_preprocessors_are_refused(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", str(own_project.root / "search.yaml"), "--run-dir", str(tmp_path / "run"), "--workers", "0"]
    command += ["--cache-dir", str(tmp_path / "cache")]
    processor = own_project.root / "vit" / "preprocessor_config.json"
    before = processor.read_text()
    processor.write_text(json.dumps(json.loads(before) | {"size": {"height": 32, "width": 32}}))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert (
        "preprocessor_config.json: the image processor yields images of 3 x 32 x 32, which the model rejects" in error
    )
    processor.write_text(before)
    tokenizer = load_tokenizer(str(own_project.root / "bert"))
    tokenizer.add_tokens([f"new{index}" for index in range(100)])
    tokenizer.save_pretrained(own_project.root / "bert")
    assert main(command) == 2
    assert "tokenizer.json: the tokenizer has the token ids 0 to 110; expected 0 to 49" in capsys.readouterr().err


def test_space_of_another_depth_than_the_encoders_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    other = project.write(
        "other_depth.yaml", **{"space.num_layers": 5, "space.mapping_width": {"choices": [4, 8], "per": "layer"}}
    )
    assert main(["space", str(other)]) == 2
    assert (
        "space.num_layers: wrong number; expected 3, since the encoders have 4 and 3 layers, got 5"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", [[], ["space"], ["search"], ["resume"], ["export"], ["evaluate"], ["predict"]])
def test_every_help_shows_an_example_without_loading_slow_packages(command: list[str]) -> None:
    code = (
        "import sys\nfrom nas.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    heavy = {'torch', 'transformers', 'optuna', 'ray', 'pydantic', 'scipy', 'matplotlib'}\n"
        "    assert not heavy & set(sys.modules), 'help is slow'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    assert not command or "example:\n  python run_search.py " + command[0] in done.stdout


@pytest.mark.parametrize(
    ("command", "wrong", "message"),
    [
        ("search", "--budget", "a number of trials"),
        ("search", "--memory-budget", "a number with a unit"),
        ("space", "--memory-budget", "a number with a unit"),
        ("compare", "--budget", "a number of trials"),
    ],
)
def test_invalid_budget_is_reported_without_loading_torch(command: str, wrong: str, message: str) -> None:
    code = (
        "import sys\nfrom nas.cli import main\nstatus = main(sys.argv[1:])\n"
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules), 'the message is slow'\nsys.exit(status)"
    )
    words = [command, "search_spaces/demo.yaml", wrong, "soon"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {wrong}: invalid value; expected ")
    assert message in done.stderr and done.stderr.endswith(", got 'soon'\n")


def test_script_runs_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "run_search.py", "resume", "no_run", "--budget", "soon"],  # refused before slow imports
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: --budget: invalid value; ")


@pytest.mark.long
def test_evaluation_holds_out_the_same_samples_as_the_search(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [row.rpartition(",")[0] for row in own_project.manifest.read_text().splitlines()]
    own_project.manifest.write_text("\n".join(table) + "\n")
    held_out = {"validation": 0.2, "test": 9, "seed": 4}
    changes = {"data.columns": {"split": None}, "data.held_out": held_out, "recipe.epochs": 1}
    run = tmp_path / "run"
    arguments = ["--run-dir", str(run), "--workers", "0", "--cache-dir", str(tmp_path / "cache"), "--budget", "3"]
    assert main(["search", str(own_project.write("held.yaml", **changes)), *arguments]) == 0
    assert "test: 9 samples" in capsys.readouterr().out
    report = json.loads((run / "report.json").read_text())["best"]
    data = ["--data", str(own_project.manifest), "--images", str(own_project.images)]
    for split, count in (("validation", 12), ("test", 9)):
        assert main(["evaluate", str(run / "best"), *data, "--split", split]) == 0
        printed = capsys.readouterr().out.splitlines()[0]
        assert printed.startswith(f"accuracy: {report[split]['accuracy']:.6f} ") and f"with {count} samples" in printed


def test_data_set_with_several_labels_is_searched_evaluated_and_predicted(
    own_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = own_project.manifest.read_text().splitlines()
    rows = [row.replace("green", "green|cold").replace("blue", "blue|cold") for row in table]
    own_project.manifest.write_text("\n".join(row.replace(",red,", ",,") for row in rows) + "\n")
    source = own_project.write(
        "several.yaml",
        **{
            "data.labels": "several",
            "data.max_text_tokens": None,
            "search.objective": "micro_f1",
            "supernet.sampling": "sandwich",
            "supernet.architectures_per_step": 3,
            "supernet.distillation": 0.5,
            "recipe.class_weights": "inverse_frequency",
            "recipe.epochs": 8,
        },
    )
    run = tmp_path / "run"
    arguments = ["--run-dir", str(run), "--workers", "0", "--cache-dir", str(tmp_path / "cache"), "--budget", "4"]
    assert main(["search", str(source), *arguments]) == 0
    assert "1.33 labels per sample" in capsys.readouterr().out
    reports = json.loads((run / "report.json").read_text())
    report, linear = reports["best"], reports["linear"]
    assert report["validation"]["micro_f1"] > 0.9 and "threshold" not in report["test"]
    assert linear["validation"]["micro_f1"] > 0.9 and linear["test"].keys() == report["test"].keys()

    data = ["--data", str(own_project.manifest), "--images", str(own_project.images)]
    assert main(["evaluate", str(run / "best"), *data]) == 0
    printed, _, classes = capsys.readouterr().out.partition("\n\n")
    scores = dict(line.split(" (")[0].split(": ") for line in printed.splitlines())
    assert 0 <= float(scores.pop("expected calibration error")) <= 1 and "cold" in classes
    assert {name: float(value) for name, value in scores.items()} == pytest.approx(report["test"], abs=1e-6)

    seen = []
    for picture in ("000.png", "001.png", "002.png"):  # red, green, blue
        image = str(own_project.images / picture)
        assert main(["predict", str(run / "best"), "--image", image, "--text", "apple"]) == 0
        seen.append({line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.endswith(" yes")})
    assert seen == [set(), {"green", "cold"}, {"blue", "cold"}]


def test_balanced_accuracy_of_several_labels_is_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    source = project.write("both.yaml", **{"data.labels": "several", "search.objective": "balanced_accuracy"})
    assert main(["search", str(source), "--workers", "0"]) == 2
    assert "search.objective: invalid value; expected one of accuracy, macro_f1" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and re.fullmatch(r"pmf-nas \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("/no where/pmf-nas", "'/no where/pmf-nas'"),
        ("run_search.py", "python run_search.py"),
        ("-c", "python run_search.py"),
    ],
)
def test_hints_name_the_program_as_it_was_called(
    called: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    assert f"example:\n  {expected} resume runs/demo" in capsys.readouterr().out
