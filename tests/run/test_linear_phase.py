"""The linear classifier that every search solves first."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from nas.cli import main
from nas.config.load import load_config
from nas.execution.worker_setup import kept_logits_path, trained_weights_path
from nas.models.fusion.linear.architecture import LinearArchitecture
from nas.models.fusion.readouts import READOUTS, Readout
from nas.models.fusion.supernet import build_model
from nas.run.evaluate import evaluate_exported
from nas.run.executors import ExecutionOptions
from nas.run.exported_model import open_exported
from nas.run.finalize import read_report
from nas.run.phases.linear import LinearPhase
from nas.run.reruns import read_simple_result
from nas.run.roles import LINEAR
from nas.run.shared_weights import TRAINED
from nas.search.keys import LinearKey
from nas.training.checkpoint import load_weights, training_facts
from nas.training.kept_logits import read_logits
from tests.run.conftest import FinishedRun
from tests.support.project import Project
from tests.support.runs import resume_search
from tests.support.search_file import make_search_config
from tests.support.tiny import encoders
from tests.support.weights import are_equal


def test_classifier_is_solved_evaluated_and_shown(finished: FinishedRun, project: Project) -> None:
    run, lines = finished.directory, finished.output.splitlines()
    result, report = read_simple_result(run, LINEAR), read_report(run)[LINEAR]
    assert result is not None and result.key == LinearKey() and result.stage == "full"
    assert report["validation"]["accuracy"] == result.score and report["test_samples"] == 12
    shown = next(line for line in lines if line.startswith("linear classifier on the frozen encoders: "))
    assert f"accuracy {result.score:.3f}" in shown and "L2 penalty" in shown
    assert lines.index(shown) < next(place for place, line in enumerate(lines) if line.startswith("Supernet: "))
    row = next(line for line in lines if re.match(r"(answer \()?linear\)? +\d", line))
    assert any(line.endswith(f"({result.architecture})") for line in lines)
    assert f"{result.score:.3f}" in row and f"{report['test']['accuracy']:.3f}" in row
    (verdict,) = (place for place, line in enumerate(lines) if line.startswith("The spread over seeds is unknown"))
    assert "the linear classifier" in lines[verdict] and verdict < lines.index(row)
    metrics, *_ = evaluate_exported(run / LINEAR, load_config(project.root / "search.yaml").data, "validation")
    assert metrics == pytest.approx(result.metrics, abs=1e-4)
    fusion = open_exported(run / LINEAR).model.fusion
    assert fusion.architecture == result.architecture
    assert report["trainable_parameters"] == sum(
        parameter.numel() for parameter in fusion.parameters() if parameter.requires_grad
    )
    assert "Nothing but the classifier was trained" in (run / LINEAR / "README.md").read_text()


def test_classifier_is_exported_by_name(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "model"), "--pick", "linear"]) == 0
    result = read_simple_result(finished.directory, LINEAR)
    assert result is not None
    assert f"(linear, trained completely, {result.architecture})" in capsys.readouterr().out
    described = yaml.safe_load((tmp_path / "model" / "architecture.yaml").read_text())
    assert described["architecture"] == result.architecture.as_dict() and "test" in described
    assert are_equal(tmp_path / "model", finished.directory / LINEAR)


def test_classifier_without_its_weights_or_result_is_solved_again_to_the_same_bits(
    copy: Path, options: ExecutionOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / LINEAR / TRAINED).read_bytes()
    (copy / "linear.json").unlink()
    assert main(["export", str(copy), "--output", str(copy / "model"), "--pick", "linear"]) == 2
    assert "has no linear classifier yet; solve it with: " in capsys.readouterr().err
    (copy / "full" / "linear.safetensors").unlink()
    output = resume_search(copy, options)
    assert "linear classifier on the frozen encoders: " in output
    assert (copy / LINEAR / TRAINED).read_bytes() == before


class ReadoutSplit:
    """Readouts of random samples of three classes; only some of them depend on the class.

    Args:
        count: The number of samples.
        telling: The readouts of images and texts that depend on the class.
        seed: The seed of the samples.
    """

    def __init__(self, count: int, telling: dict[str, Readout], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = np.arange(count, dtype=np.int64) % 3
        centres = torch.randn(3, 24, generator=torch.Generator().manual_seed(9))
        self._values: dict[tuple[str, Readout], Tensor] = {}
        for modality, size in (("image", 24), ("text", 16)):
            for readout in READOUTS:
                noise = torch.randn(count, size, generator=generator)
                is_telling = telling.get(modality) == readout
                self._values[modality, readout] = noise + is_telling * centres[torch.from_numpy(self.labels), :size]

    def __len__(self) -> int:
        return len(self.labels)

    def readouts(self, image: Readout, text: Readout) -> tuple[Tensor, Tensor]:
        return self._values["image", image], self._values["text", text]


@pytest.mark.parametrize(
    "telling",
    [{"image": "pooled", "text": "mean"}, {"image": "mean", "text": "pooled"}, {"image": "mean", "text": "mean"}],
    ids=str,
)
def test_readouts_with_the_best_validation_score_are_chosen(telling: dict[str, Readout], tmp_path: Path) -> None:
    notes: list[str] = []
    splits = {"train": ReadoutSplit(150, telling, 1), "validation": ReadoutSplit(300, telling, 2)}
    image, text = (encoder.float() for encoder in encoders())
    store = SimpleNamespace(splits=splits, class_names=("a", "b", "c"))
    prepared: Any = SimpleNamespace(store=store, image_encoder=image, text_encoder=text)
    setup: Any = SimpleNamespace(
        run_directory=tmp_path,
        thread_count=1,
        weights_path=lambda key: trained_weights_path(tmp_path, key, "full"),
        logits_path=lambda key: kept_logits_path(tmp_path, key),
    )
    clock = SimpleNamespace(is_interrupted=False, is_over=lambda seconds: False, forecast=None)
    clock.deadlines = SimpleNamespace(total_seconds=9.0)
    reporter = SimpleNamespace(note=notes.append, progress=lambda *args, **kwargs: None)
    context: Any = SimpleNamespace(config=make_search_config(), clock=clock, reporter=reporter)
    result = LinearPhase(setup, prepared).run(context)
    assert result is not None and result == read_simple_result(tmp_path, LINEAR) and result.score > 0.9
    assert isinstance(result.architecture, LinearArchitecture)
    assert result.architecture.readouts == (telling["image"], telling["text"])
    assert f"(image {telling['image']}, text {telling['text']}, L2 penalty " in notes[-1]
    model = build_model(image_encoder=image, text_encoder=text, architecture=result.architecture, num_classes=3, seed=1)
    load_weights(setup.weights_path(result.key), model, **training_facts(result))
    inputs = torch.cat(splits["validation"].readouts(*result.architecture.readouts), dim=1)
    kept = read_logits(setup.logits_path(result.key), result, (300, 3))
    assert kept is not None
    classifier: Any = model.classifier
    torch.testing.assert_close(classifier(inputs), kept)
    assert LinearPhase(setup, prepared).run(context) == result  # stored, not solved again
