"""Processes that decode images: the pixels of one process, one error, and no process left."""

import dataclasses
import multiprocessing
import os
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas.common.errors import DataError, ExecutionError
from nas.data.features import blocks as feature_blocks
from nas.data.features import crew, decoding_processes, inputs
from nas.data.features.decoding_processes import DecodingProcesses
from nas.data.features.inputs import FeatureSources, InputRange, SplitInputs, pixel_values
from nas.data.features.preparing import Preparation, prepare_inputs
from nas.data.images import ZipImages
from tests.support.building import build, content, feature_sources, finished_blocks
from tests.support.project import Project

SHAPE = (3, 16, 16)


@contextmanager
def preparing(sources: FeatureSources) -> Iterator[tuple[Preparation, list[InputRange]]]:
    """Yield what prepares inputs with three processes, and small batches of all images and texts."""
    splits = {
        name: SplitInputs(name, samples, sources.preprocessor, 2) for name, samples in sources.dataset.splits.items()
    }
    batches = [batch for split in splits.values() for block in split.blocks() for batch in split.batches(block)]
    processes = DecodingProcesses(splits, sources, image_shape=SHAPE, largest=32, count=3, waiting=2)
    try:
        yield Preparation(splits, sources, 3, processes), batches
    finally:
        processes.close()


def test_pixels_and_tokens_are_those_of_this_process_also_from_an_archive(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BATCH_SIZE", 4)
    sources = feature_sources(project)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(project.images.iterdir()):
            archive.write(path, path.name)
    zipped = dataclasses.replace(sources, images=ZipImages(tmp_path / "images.zip"))
    assert zipped.images.open(sources.dataset.splits["train"].images[0]), "this process has read of the archive"
    with preparing(zipped) as (preparation, batches):
        found = list(prepare_inputs(batches, preparation))
    alone = Preparation(preparation.splits, sources, 0)
    assert [batch for batch, _, _ in found] == batches and len(batches) > 20
    for batch, values, mask in found:
        expected, expected_mask = alone.inputs(batch)
        assert torch.equal(values, expected)
        masks = [entry for entry in (mask, expected_mask) if entry is not None]
        assert len(masks) == 0 or (len(masks) == 2 and torch.equal(*masks))


def test_images_of_another_size_come_as_they_are(project: Project) -> None:
    sources = feature_sources(project)
    sources.preprocessor.image_processor.size = {"height": 8, "width": 8}
    with preparing(sources) as (preparation, batches):
        (_, values, _), *_ = prepare_inputs(batches, preparation)
    assert values.shape[1:] == (3, 8, 8), "the encoder refuses them with an error that names them"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let builds on the CPU decode in processes, as those on an accelerator do; return a check that none is left."""
    started: list[DecodingProcesses] = []

    def start(self: crew.BuildCrew) -> None:
        if self._preparation.processes is not None:
            return
        work = self._work
        found = DecodingProcesses(
            work.splits, work.sources, image_shape=work.image_shape, largest=64, count=2, waiting=2
        )
        started.append(found)
        self._preparation = dataclasses.replace(self._preparation, ahead=2, processes=found)

    monkeypatch.setattr(crew.BuildCrew, "_start_processes", start)

    def check_ended() -> None:
        assert started
        deadline = time.monotonic() + 30
        while any(process.is_alive() for process in multiprocessing.active_children()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return check_ended


def test_unreadable_image_is_named_as_without_processes(
    own_project: Project, tmp_path: Path, processes: Callable[[], None]
) -> None:
    sources = feature_sources(own_project)
    name = sources.dataset.splits["validation"].images[3]
    (own_project.images / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"image '{name}': is not an image; expected a file in a format that") as error:
        build(sources, tmp_path)
    assert "Traceback" not in str(error.value)
    processes()


def test_death_of_a_process_is_one_error_and_what_is_computed_is_kept(
    project: Project, tmp_path: Path, processes: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_blocks, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(inputs, "BLOCK_SIZE", 8)
    sources = feature_sources(project)
    whole = content(build(sources, tmp_path / "whole"))
    last = sources.dataset.splits["validation"].images[-1]

    def die(names: Sequence[str], views: int, sources: FeatureSources) -> Tensor:
        if last in names:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixel_values(names, views, sources)

    with monkeypatch.context() as patch:
        patch.setattr(decoding_processes, "pixel_values", die)
        with pytest.raises(ExecutionError, match="features: a process that decodes images has died; expected"):
            build(sources, tmp_path / "killed")
    processes()
    (building,) = (tmp_path / "killed" / "features").glob("*.building")
    assert finished_blocks(building) > 0
    assert content(build(sources, tmp_path / "killed")) == whole


@pytest.mark.long
def test_processes_end_with_a_parent_that_is_killed(project: Project, tmp_path: Path) -> None:
    parent = os.fork()
    if not parent:
        try:
            with preparing(feature_sources(project)):
                text = " ".join(str(child.pid) for child in multiprocessing.active_children())
                (tmp_path / "part").write_text(text)
                (tmp_path / "part").rename(tmp_path / "children")
                signal.pause()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "children").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = [int(word) for word in (tmp_path / "children").read_text().split()]
    assert len(children) == 3
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # nothing may collect an orphan's status here
