"""Searches in bfloat16: what is recorded, and what becomes of another precision in a later session."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nas.cli import main
from nas.common.errors import StudyError
from nas.common.precision import PRECISIONS
from nas.common.progress import build_reporter
from nas.config.load import load_config
from nas.config.overrides import Overrides
from nas.execution.worker_setup import kept_logits_path
from nas.run import defaults
from nas.run.defaults import complete
from nas.run.directory import read_run, read_study
from nas.run.executors import ExecutionOptions
from nas.run.exported_model import open_exported
from nas.run.finalize import read_report
from nas.run.prepare import prepare
from nas.run.validation_scores import validation_logits
from nas.search.trial import Result
from tests.support.project import Project
from tests.support.runs import resume_search, run_search


@pytest.fixture(scope="module")
def half(project: Project, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in bfloat16 with three candidates."""
    directory = tmp_path_factory.mktemp("half") / "run"
    source = project.write("half.yaml", **{"recipe.precision": "bfloat16", "search.finalists": 1})
    run_search(source, directory, options, trials=3)
    return directory


@pytest.mark.long
def test_every_score_and_the_exported_model_state_the_precision(half: Path) -> None:
    run = read_run(half)
    study = read_study(half, run)
    found = [result for stage in ("one_shot", "short", "full") for result in study.results(stage)]
    assert found and {result.precision for result in found} == {"bfloat16"}
    assert all(Result.from_dict(result.as_dict()) == result for result in found)
    rows = (half / "results.csv").read_text().splitlines()
    assert "precision" in rows[0].split(",") and all(",bfloat16," in row for row in rows[1:])
    report = read_report(half)
    assert report["default"]["precision"] == "bfloat16" and report["linear"]["precision"] == "float32"
    described = yaml.safe_load((half / "default" / "architecture.yaml").read_text())
    assert described["precision"] == "bfloat16"
    assert "| precision | bfloat16 |" in (half / "default" / "README.md").read_text()


def test_workers_hold_frozen_products_in_bfloat16_and_trained_weights_in_float32(half: Path) -> None:
    frozen = torch.load(half / "text_encoder.pt", mmap=True, weights_only=True)
    dtypes = {name: tensor.dtype for name, tensor in frozen.items() if tensor.is_floating_point()}
    assert {dtype for name, dtype in dtypes.items() if "LayerNorm" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if ".dense." in name or ".query." in name} == {torch.bfloat16}
    for path in (half / "full").iterdir():
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}


def test_validation_logits_are_those_of_the_exported_weights_under_autocast(
    half: Path, options: ExecutionOptions
) -> None:
    """Workers hold frozen weights in bfloat16; where they are float32, autocast rounds them to the same numbers."""
    run = read_run(half)
    result = next(iter(read_study(half, run).results("full")))
    path = kept_logits_path(half, result.key)
    kept = load_file(path)["logits"]
    assert kept.dtype == torch.float32
    path.unlink()
    with build_reporter() as reporter:
        prepared = prepare(run.config, source="", cache_directory=options.cache, reporter=reporter)
    found = validation_logits(result, half, run.config, prepared)
    torch.testing.assert_close(found, kept, rtol=0, atol=1e-3 * float(kept.abs().max()))


def test_exported_model_is_evaluated_and_used_in_a_chosen_precision(
    half: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(half / "default"), ["--data", str(project.manifest), "--images", str(project.images)]
    sample = ["--image", str(next(project.images.iterdir())), "--text", "apple"]
    printed = {}
    for precision in ("auto", "float32", "bfloat16"):
        assert main(["evaluate", model, *data, "--precision", precision]) == 0
        assert main(["predict", model, *sample, "--precision", precision]) == 0
        printed[precision] = capsys.readouterr().out
    assert printed["auto"] == printed["float32"] != printed["bfloat16"]
    assert "note: products were computed in bfloat16" in printed["bfloat16"]
    exported = [open_exported(model, precision=precision) for precision in PRECISIONS]
    logits = [entry.logits([Path(sample[1])], ["apple"]) for entry in exported]
    assert logits[0].dtype == logits[1].dtype == torch.float32
    assert 0 < float((logits[1] - logits[0]).norm() / logits[0].norm()) < 4 * 2**-8


def test_resumed_search_keeps_the_precision_of_the_run_and_refuses_another(
    half: Path, project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "(failed)" not in resume_search(half, options, trials=4)
    with pytest.raises(StudyError, match=r'recipe\.precision: "bfloat16" → "float32"'):
        resume_search(half, options, precision="float32")
    open_file = project.write("open.yaml", **{"recipe.precision": "auto", "search.finalists": 1})
    monkeypatch.setattr(defaults, "fast_precision", lambda device: "float32")
    assert "holds this search; resuming it" in run_search(open_file, half, options, trials=4)
    assert read_run(half).config.recipe.precision == "bfloat16"
    assert "(failed)" not in resume_search(half, options, precision="auto", trials=4)


def test_automatic_precision_is_what_the_device_is_fast_at(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    source = project.write("auto.yaml", **{"recipe.precision": "auto"})
    assert complete(load_config(source), source=str(source)).recipe.precision == "float32"
    monkeypatch.setattr(defaults, "fast_precision", lambda device: "bfloat16")
    assert complete(load_config(source), source=str(source)).recipe.precision == "bfloat16"
    chosen = Overrides(precision="float32").apply(load_config(source))
    assert complete(chosen, source=str(source)).recipe.precision == "float32"
