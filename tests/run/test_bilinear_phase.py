"""The bilinear classifier that every search solves after the linear one."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.cli import main
from nas.config.load import load_config
from nas.execution.worker_setup import kept_logits_path, trained_weights_path
from nas.models.fusion.bilinear.architecture import BilinearArchitecture
from nas.models.fusion.supernet import build_model
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.exported_model import open_exported
from nas.run.finalize import read_report
from nas.run.phases.bilinear import BilinearPhase
from nas.run.phases.linear import LinearPhase
from nas.run.reruns import read_simple_result
from nas.run.roles import BILINEAR, LINEAR
from nas.run.shared_weights import TRAINED
from nas.search.keys import BilinearKey
from nas.training.checkpoint import load_weights, training_facts
from nas.training.kept_logits import read_logits
from tests.run.conftest import FinishedRun
from tests.run.test_linear_phase import ReadoutSplit
from tests.support.project import Project
from tests.support.runs import resume_search
from tests.support.search_file import make_search_config
from tests.support.tiny import encoders


def test_classifier_is_solved_evaluated_and_shown(finished: FinishedRun, project: Project) -> None:
    run, lines = finished.directory, finished.output.splitlines()
    result, linear, report = (
        read_simple_result(run, BILINEAR),
        read_simple_result(run, LINEAR),
        read_report(run)[BILINEAR],
    )
    assert result is not None and result.key == BilinearKey() and result.stage == "full" and linear is not None
    assert isinstance(result.architecture, BilinearArchitecture)
    assert {**result.architecture.values(), **linear.architecture.values()} == result.architecture.values()
    assert report["validation"]["accuracy"] == result.score and report["test_samples"] == 12
    (shown,) = (line for line in lines if line.startswith("bilinear classifier on the frozen encoders: "))
    assert f"accuracy {result.score:.3f}" in shown and "L2 penalty of the products" in shown
    row = next(line for line in lines if re.match(r"(answer \()?bilinear\)? +\d", line))
    assert any(line.endswith(f"({result.architecture})") for line in lines)
    assert f"{result.score:.3f}" in row and f"{report['test']['accuracy']:.3f}" in row
    metrics, *_ = evaluate_exported(run / BILINEAR, load_config(project.root / "search.yaml").data, "validation")
    assert metrics == pytest.approx(result.metrics, abs=1e-4)
    assert open_exported(run / BILINEAR).model.fusion.architecture == result.architecture
    assert "products of their whitened principal components" in (run / BILINEAR / "README.md").read_text()


def test_search_that_was_killed_after_the_linear_classifier_solves_this_one_to_the_same_bits(
    copy: Path, options: ExecutionOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / BILINEAR / TRAINED).read_bytes()
    (copy / "bilinear.json").unlink()
    assert main(["export", str(copy), "--output", str(copy / "model"), "--pick", "bilinear"]) == 2
    assert "has no bilinear classifier yet; solve it with: " in capsys.readouterr().err
    (copy / "full" / "bilinear.safetensors").unlink()
    output = resume_search(copy, options)
    assert "bilinear classifier on the frozen encoders: " in output
    assert "linear classifier on the frozen encoders: " not in output.replace("bilinear classifier", "")
    assert (copy / BILINEAR / TRAINED).read_bytes() == before


class Bench:
    """A phase on random readouts, whose classes the readouts tell.

    Args:
        directory: The run directory.
        **budget: Changes of the budget of the search.
    """

    def __init__(self, directory: Path, **budget: Any) -> None:
        self.notes: list[str] = []
        self.directory = directory
        self.splits = {
            "train": ReadoutSplit(150, {"image": "mean", "text": "pooled"}, 1),
            "validation": ReadoutSplit(90, {"image": "mean", "text": "pooled"}, 2),
        }
        self.encoders = tuple(encoder.float() for encoder in encoders())
        store = SimpleNamespace(splits=self.splits, class_names=("a", "b", "c"))
        self.prepared: Any = SimpleNamespace(store=store, image_encoder=self.encoders[0], text_encoder=self.encoders[1])
        self.setup: Any = SimpleNamespace(
            run_directory=directory,
            thread_count=1,
            weights_path=lambda key: trained_weights_path(directory, key, "full"),
            logits_path=lambda key: kept_logits_path(directory, key),
        )
        self.phases: dict[str, float] = {}
        clock = SimpleNamespace(
            is_interrupted=False,
            is_over=lambda seconds: False,
            deadlines=SimpleNamespace(total_seconds=9.0),
            account=SimpleNamespace(phases=self.phases),
            forecast=None,
        )
        config = make_search_config()
        self.context: Any = SimpleNamespace(
            config=config.replace(budget=config.budget.model_copy(update=budget)),
            clock=clock,
            reporter=SimpleNamespace(note=self.notes.append, progress=lambda *args, **kwargs: None),
        )

    def run(self) -> Any:
        linear = LinearPhase(self.setup, self.prepared).run(self.context)
        assert linear is not None
        return BilinearPhase(self.setup, self.prepared, linear).run(self.context)


def test_kept_weights_and_logits_are_those_of_the_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = bench.run()
    assert result is not None and result == read_simple_result(tmp_path, BILINEAR) and result.score > 0.9
    assert result.architecture == BilinearArchitecture(12, 1, 0), "12 squared is at most 150"
    image, text = bench.encoders
    model: Any = build_model(
        image_encoder=image, text_encoder=text, architecture=result.architecture, num_classes=3, seed=1
    )
    load_weights(bench.setup.weights_path(result.key), model, **training_facts(result))
    kept = read_logits(bench.setup.logits_path(result.key), result, (90, 3))
    assert kept is not None
    read = bench.splits["validation"].readouts(*result.architecture.readouts)
    torch.testing.assert_close(model.classifier(model.classifier_inputs(*read, result.architecture)), kept)
    assert bench.run() == result and len(bench.notes) == 2, "stored, not solved again"


def test_fewer_components_are_taken_where_memory_is_short_and_the_classifier_is_left_out_where_it_does_not_fit(
    tmp_path: Path,
) -> None:
    needed: dict[int, int] = {}
    for count in (12, 6):
        (tmp_path / str(count)).mkdir()
        bench = Bench(tmp_path / str(count), memory_bytes=needed.get(12, 2**40 + 1) - 1)
        result = bench.run()
        assert result.architecture.components == count
        needed[count] = result.predicted_peak_bytes
    (tmp_path / "none").mkdir()
    bench = Bench(tmp_path / "none", memory_bytes=needed[6] - 1)
    assert bench.run() is None and not (tmp_path / "none" / "bilinear.json").exists()
    assert re.fullmatch(
        r"bilinear classifier: left out, because it needs .*, and the memory budget is .*", bench.notes[-1]
    )


def test_classifier_is_left_out_where_it_takes_long_and_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, time_seconds=100.0)
    bench.phases["bilinear"] = 10.1
    for _ in range(2):
        assert bench.run() is None
        assert bench.notes[-1] == "bilinear classifier: left out, because it takes more than 10% of the time budget"


def test_classifier_is_left_out_where_a_readout_is_constant(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for split in bench.splits.values():
        original = split.readouts
        split.readouts = lambda image, text, of=original: (of(image, text)[0], torch.ones(len(of(image, text)[1]), 16))  # type: ignore[method-assign,misc]
    assert bench.run() is None
    assert bench.notes[-1] == (
        "bilinear classifier: left out, because the text readout is the same for all training samples"
    )
