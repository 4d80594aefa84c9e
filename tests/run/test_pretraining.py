"""A whole search of a family that is pretrained, killed in a pretraining and resumed."""

from pathlib import Path
from typing import Any

import pytest

from nas.run.executors import ExecutionOptions
from nas.run.history import HISTORY, read_history
from nas.training.checkpoint import load_tensors
from nas.training.pretraining.pairs import PairBatch
from nas.training.pretraining.step import Pretrainer
from tests.support.project import Project
from tests.support.runs import Killed, results_of, resume_search, run_search, without_measurements

pytestmark = pytest.mark.long

STEPS = 5
CHANGES: dict[str, Any] = {
    "family": "albef",
    "space": {"fusion_layer": [1, 2]},
    "pretraining": {"steps": STEPS, "queue_size": 10, "checkpoint_steps": 2},
    "recipe.epochs": 1,
    "supernet.steps": 2,
    "search.short_training_steps": 1,
    "search.finalists": 1,
    "budget.trials": 2,
}


def weights_of(directory: Path) -> dict[str, dict[str, Any]]:
    return {path.name: load_tensors(path)[0] for path in sorted((directory / "full").glob("*.safetensors"))}


def test_search_that_is_killed_in_a_pretraining_and_resumed_has_the_weights_of_one_that_is_not(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole, killed = project.write("pretrained_search.yaml", **CHANGES), tmp_path / "whole", tmp_path / "killed"
    run_search(source, whole, options)
    with monkeypatch.context() as patch:
        step = Pretrainer.step

        def killed_in_the_fourth(self: Pretrainer, index: int, *arguments: Any) -> None:
            if index == 3:
                raise Killed
            step(self, index, *arguments)

        patch.setattr(Pretrainer, "step", killed_in_the_fourth)
        with pytest.raises(Killed):
            run_search(source, killed, options)
    assert len(list((killed / "pretraining").iterdir())) == 1
    done: list[int] = []

    def counted(self: Pretrainer, index: int, *arguments: Any) -> None:
        done.append(index)
        step(self, index, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "step", counted)
        resume_search(killed, options)
    assert done[:3] == [2, 3, 4], "it resumes at its checkpoint"
    expected, found = weights_of(whole), weights_of(killed)
    assert expected.keys() == found.keys() and len(expected) >= 2
    for name, tensors in expected.items():
        assert all(bool((tensor == found[name][key]).all()) for key, tensor in tensors.items()), name
    assert without_measurements(results_of(whole)) == without_measurements(results_of(killed))
    assert not list((killed / "pretraining").iterdir())
    points = [point for point in read_history(killed / HISTORY) if point.stage == "pretraining"]
    assert [(point.trial, point.step) for point in points] == [("0", step) for step in range(1, STEPS + 1)]


def test_vlmo_learns_from_texts_alone_before_the_pairs(
    project: Project, options: ExecutionOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretraining = {"steps": 2, "text_steps": 3, "queue_size": 10}
    changes = {**CHANGES, "family": "vlmo", "space": {"modality_layers": [1, 3]}, "pretraining": pretraining}
    read, step = list[int](), Pretrainer.text_step

    def noted(self: Pretrainer, index: int, pairs: PairBatch) -> None:
        frozen = {name: entry.clone() for name, entry in self.model.model.named_parameters() if "attention" in name}
        read.append(pairs.batch.image_tokens.numel())
        step(self, index, pairs)
        own = dict(self.model.model.named_parameters())
        assert frozen and all(bool((own[name] == entry).all()) for name, entry in frozen.items())

    monkeypatch.setattr(Pretrainer, "text_step", noted)
    run_search(project.write("vlmo_texts.yaml", **changes), tmp_path / "run", options)
    points = [point for point in read_history(tmp_path / "run" / HISTORY) if point.stage == "pretraining"]
    assert [point.step for point in points if point.trial == "0"] == [1, 2, 3, 4, 5]
    assert read and set(read) == {0} and len(read) % 3 == 0
