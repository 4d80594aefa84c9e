"""The exported models of a run have one file of encoders on disk, and each of them is complete by itself."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.cli import main
from nas.common.disk_usage import disk_bytes
from nas.config.load import load_config
from nas.models.classifier import FusionForClassification
from nas.models.encoders.folder_check import SAFE_INDEX, SAFE_WEIGHTS
from nas.models.model_seals import model_changes
from nas.run.export import assemble, export
from nas.run.exported_model import open_exported
from nas.run.model_folder import copy_model_folder
from nas.run.model_parts import ModelParts
from nas.run.overview import list_runs
from nas.run.shared_weights import ENCODERS, TRAINED
from tests.run.conftest import FinishedRun
from tests.run.test_export import ARCHITECTURES, IMAGES, TEXTS, trained
from tests.support.project import Project

ROLES = ("best", "default", "linear", "bilinear")


@pytest.fixture(scope="module")
def parts(project: Project) -> ModelParts:
    return ModelParts.load(load_config(project.root / "search.yaml"), ("blue", "green", "red"))


def write(folder: Path, parts: ModelParts, others: list[Path] | None, index: int = 0) -> Path:
    """Export a model with random weights."""
    model = assemble(
        image_encoder=parts.image_encoder,
        text_encoder=parts.text_encoder,
        trained=trained(parts, ARCHITECTURES[index]),
        class_names=parts.class_names,
        max_text_tokens=parts.max_text_tokens,
    )
    tools = {"image_processor": parts.image_processor, "tokenizer": parts.tokenizer}
    export(folder, model=model, **tools, facts={"validation": {"accuracy": 0.5}}, shares_with=others)
    return folder


@pytest.fixture
def pair(parts: ModelParts, tmp_path: Path) -> tuple[Path, Path]:
    """Two models of a run; the first is older."""
    first = write(tmp_path / "default", parts, [tmp_path / "best"])
    return first, write(tmp_path / "best", parts, [tmp_path / "linear", first], 1)


def logits_of(folder: Path) -> torch.Tensor:
    return open_exported(folder).logits(IMAGES, TEXTS)


def test_models_of_a_search_have_one_file_of_encoders(finished: FinishedRun) -> None:
    files = [finished.directory / role / ENCODERS for role in ROLES]
    assert len({path.stat().st_ino for path in files}) == 1 and files[0].stat().st_nlink == len(ROLES)
    assert files[0].stat().st_mode & 0o777 == (finished.directory / "report.json").stat().st_mode & 0o777
    for role in ROLES:
        folder = finished.directory / role
        assert not (folder / SAFE_WEIGHTS).exists() and (folder / SAFE_INDEX).exists() and not model_changes(folder)


def test_shared_model_has_the_tensors_and_the_logits_of_one_in_a_single_file(
    pair: tuple[Path, Path], parts: ModelParts, tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole", parts, None)
    assert whole.joinpath(SAFE_WEIGHTS).exists() and not whole.joinpath(SAFE_INDEX).exists()
    tensors, shared = load_file(whole / SAFE_WEIGHTS), load_file(pair[0] / ENCODERS) | load_file(pair[0] / TRAINED)
    assert tensors.keys() == shared.keys() and all(torch.equal(tensors[name], shared[name]) for name in tensors)
    assert torch.equal(logits_of(whole), logits_of(pair[0]))
    plain = FusionForClassification.from_pretrained(pair[0])  # as transformers loads it
    assert all(torch.equal(value, tensors[name]) for name, value in plain.state_dict().items() if name in tensors)


def test_deleting_or_replacing_a_model_leaves_the_other(pair: tuple[Path, Path], parts: ModelParts) -> None:
    first, second = pair
    assert first.joinpath(ENCODERS).samefile(second / ENCODERS)
    before, changed = logits_of(first), load_file(first / ENCODERS)
    save_file({name: torch.zeros_like(tensor) for name, tensor in changed.items()}, second / ENCODERS)
    assert not model_changes(first) and model_changes(second)
    FusionForClassification.from_pretrained(first).save_pretrained(second)  # one file in place of two
    assert not second.joinpath(ENCODERS).exists() and torch.equal(logits_of(first), before)
    write(second, parts, [first], 1)
    assert first.joinpath(ENCODERS).samefile(second / ENCODERS)
    shutil.rmtree(second)
    assert torch.equal(logits_of(first), before) and not model_changes(first)


def test_damaged_file_is_not_shared(pair: tuple[Path, Path], parts: ModelParts, tmp_path: Path) -> None:
    with pair[0].joinpath(ENCODERS).open("r+b") as file:  # of both: they are one file
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    third = write(tmp_path / "linear", parts, list(pair))
    assert not model_changes(third) and not third.joinpath(ENCODERS).samefile(pair[0] / ENCODERS)


def test_file_system_without_hard_links_gets_copies(
    parts: ModelParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    first = write(tmp_path / "default", parts, [])
    second = write(tmp_path / "best", parts, [first], 1)
    copy_model_folder(second, tmp_path / "twin", links=True)
    for folder in (second, tmp_path / "twin"):
        assert not folder.joinpath(ENCODERS).samefile(first / ENCODERS) and not model_changes(folder)
        assert folder.joinpath(ENCODERS).read_bytes() == first.joinpath(ENCODERS).read_bytes()
    assert not list(tmp_path.glob("*/*.link"))


def test_copy_within_a_run_shares_all_weights_and_one_elsewhere_none(pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy_model_folder(pair[0], tmp_path / "inside", links=True)
    copy_model_folder(pair[0], tmp_path / "outside")
    for name in (ENCODERS, TRAINED):
        assert pair[0].joinpath(name).samefile(tmp_path / "inside" / name)
        assert not pair[0].joinpath(name).samefile(tmp_path / "outside" / name)
    assert not pair[0].joinpath("README.md").samefile(tmp_path / "inside" / "README.md"), "which people edit"


def test_export_elsewhere_is_one_file_of_its_own(finished: FinishedRun, tmp_path: Path) -> None:
    assert main(["export", str(finished.directory), "--output", str(tmp_path / "model")]) == 0
    assert [path.name for path in tmp_path.glob("model/*.safetensors")] == [SAFE_WEIGHTS]
    assert (tmp_path / "model" / SAFE_WEIGHTS).stat().st_nlink == 1


def test_shared_files_count_once(pair: tuple[Path, Path], tmp_path: Path, finished: FinishedRun) -> None:
    facts = [path.stat() for path in tmp_path.glob("*/*.safetensors")]
    sizes = [pair[0] / ENCODERS, pair[0] / TRAINED, pair[1] / TRAINED]
    assert disk_bytes(facts) == sum(path.stat().st_size for path in sizes) < sum(entry.st_size for entry in facts)
    listed = list_runs(finished.directory)
    files = [path.stat() for path in finished.directory.rglob("*") if path.is_file()]
    assert disk_bytes(files) < sum(entry.st_size for entry in files)
    assert f"{disk_bytes(files) / 2**20:.2f} MiB" in listed
