"""The checksums of a model folder: every way of saving writes them, and only damage counts as damage."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BertTokenizer, Trainer, TrainingArguments
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from nas.common.errors import ExportError
from nas.common.seals import SEALS, Changes
from nas.models.classifier import FusionConfig, FusionForClassification
from nas.models.model_seals import model_changes, seal_model
from tests.support.tiny import bert_model, vit_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder."""
    root = tmp_path_factory.mktemp("saved")
    config = FusionConfig(
        image_config=vit_model(num_layers=2).config.to_dict(),
        text_config=bert_model(num_layers=2).config.to_dict(),
        architecture={"family": "linear"},
        max_text_tokens=8,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    torch.manual_seed(0)
    model = FusionForClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    folder = root / "model"
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    BertTokenizer(vocab=str(root / "vocab.txt")).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def model(folder: Path) -> FusionForClassification:
    loaded: FusionForClassification = FusionForClassification.from_pretrained(folder)
    return loaded


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Every warning that a test does not expect is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def sealed_names(folder: Path) -> set[str]:
    return set(json.loads((folder / SEALS).read_text())["files"])


def test_saving_seals_every_file_that_loading_reads(folder: Path) -> None:
    assert sealed_names(folder) == {path.name for path in folder.iterdir()} - {SEALS}
    assert not model_changes(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_loading_warns_of_a_file_that_was_changed_outside(name: str, folder: Path) -> None:
    (folder / name).write_text((folder / name).read_text().replace("0.5", "0.6") + " ")
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(values | {"size": 1}))
    with pytest.warns(UserWarning, match=rf"changed after the model was saved: {name} changed$"):
        FusionForClassification.from_pretrained(folder)


def test_changed_weights_missing_and_added_files_are_named(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    changes = model_changes(folder)
    assert changes == Changes(("model.safetensors",), ("tokenizer.json",), ("added_tokens.json",))


def test_huge_tokenizer_configuration_is_a_change_and_is_not_read(folder: Path) -> None:
    with (folder / "tokenizer_config.json").open("r+b") as file:
        file.truncate(40 * 1024**3)
    assert model_changes(folder) == Changes(("tokenizer_config.json",))


def test_saving_a_changed_model_again_leaves_no_change(folder: Path, model: FusionForClassification) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(folder)
    assert not model_changes(folder)
    assert "tokenizer.json" in sealed_names(folder)


def test_interrupted_save_is_a_change(folder: Path, model: FusionForClassification) -> None:
    model.config.save_pretrained(folder)
    model.config.threshold = 0.25
    model.config.save_pretrained(folder)
    assert model_changes(folder) == Changes(("config.json",))


def test_sharded_weights_are_sealed(tmp_path: Path, model: FusionForClassification) -> None:
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    names = sealed_names(tmp_path / "shards")
    assert "model.safetensors.index.json" in names and sum(name.startswith("model-0") for name in names) > 1
    FusionForClassification.from_pretrained(tmp_path / "shards")


@pytest.mark.parametrize("options", [{}, {"local_files_only": True}])
def test_tokenizer_and_processor_may_be_saved_after_the_model(
    options: dict[str, Any], folder: Path, tmp_path: Path, model: FusionForClassification
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    tokenizer(["cat"], truncation=True, max_length=5, padding="max_length")
    parts = [tokenizer, AutoImageProcessor.from_pretrained(folder, backend="pil", **options)]
    model.save_pretrained(tmp_path / "new")
    for target in (folder, tmp_path / "new"):
        for part in parts:
            part.save_pretrained(target)
        assert not model_changes(target)
        seal_model(target)
        assert {"tokenizer.json", "preprocessor_config.json"} <= sealed_names(target)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.full((3, 16, 16), index / 4),
            "input_ids": torch.tensor([2, 5, 3]),
            "labels": torch.tensor(index % 3),
        }


def test_model_that_the_trainer_fine_tunes_has_correct_seals(folder: Path, tmp_path: Path) -> None:
    model = FusionForClassification.from_pretrained(folder)
    arguments = TrainingArguments(str(tmp_path / "tuned"), max_steps=1, save_steps=1, report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=Rows(), processing_class=AutoTokenizer.from_pretrained(folder))
    trainer.train()
    trainer.save_model()
    trainer.save_model()
    for saved in (tmp_path / "tuned", tmp_path / "tuned" / "checkpoint-1"):
        assert not model_changes(saved)
        FusionForClassification.from_pretrained(saved)


def test_uploading_takes_the_seals_along(
    tmp_path: Path, model: FusionForClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = []
    monkeypatch.setattr(
        FusionForClassification, "push_to_hub", lambda self, repo_id, **options: uploads.append((repo_id, options))
    )
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, commit_message="first")
    assert uploads == [("mine", {"commit_message": "first"})]
    assert SEALS in {path.name for path in (tmp_path / "mine").iterdir()}


def test_files_have_the_mode_that_the_umask_allows(tmp_path: Path, model: FusionForClassification) -> None:
    before = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path / "shared")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "shared").iterdir()} == {0o640}


def test_loading_a_folder_with_custom_code_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "planted.Planted"}}))
    with pytest.raises(ExportError, match=r"config\.json: auto_map: custom code is never run"):
        FusionForClassification.from_pretrained(folder, trust_remote_code=True)
