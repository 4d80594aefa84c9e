"""Building in the cache: what it says, and what happens when it is stopped, doubled, damaged, or out of disk."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.common.errors import DataError
from nas.common.files import write_atomically
from nas.common.units import format_bytes
from nas.data.features import cache as feature_cache
from nas.data.features import files as feature_files
from nas.data.features import writer as feature_writing
from nas.data.features.store import FeatureStore
from tests.support.building import build, parts
from tests.support.paths import REPOSITORY
from tests.support.project import Project
from tests.support.tiny import reads_at


@pytest.fixture
def given(project: Project) -> dict[str, Any]:
    return parts(project)


@pytest.fixture
def opened(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are opened."""
    names: list[str] = []
    images = given["images"]
    original = images.open
    monkeypatch.setattr(images, "open", lambda name: names.append(name) or original(name))
    return names


@pytest.fixture
def _every_step_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_writing, "CHECKPOINT_SECONDS", 0.0)


def content(store: FeatureStore) -> dict[str, bytes]:
    return {name: (store.directory / name).read_bytes() for name in store.contents.files}


def left(cache: Path) -> list[str]:
    """What is in the cache besides locks."""
    return [path.name for path in (cache / "features").iterdir() if path.suffix != ".lock"]


def test_a_second_search_finds_the_same_features(given: dict[str, Any], tmp_path: Path, opened: list[str]) -> None:
    first = build(given, tmp_path)
    opened.clear()
    said: list[Any] = []
    again = build(given, tmp_path, on_progress=lambda done, total: said.append(done), on_note=said.append, disk_bytes=1)
    assert again.directory == first.directory and not said and not opened


def test_whatever_changes_the_numbers_changes_the_folder(given: dict[str, Any], tmp_path: Path) -> None:
    directories = {build(given, tmp_path).directory}
    directories |= {build(given, tmp_path, dtype="float32").directory, build(given, tmp_path, views=2).directory}
    with_attention = build(given, tmp_path, attention=True)
    assert with_attention.contents.tier == "attention" and build(given, tmp_path).contents.tier == "every layer"
    directories.add(with_attention.directory)
    assert build({**given, "has_attention": False}, tmp_path, attention=True).directory in directories, (
        "nobody reads it"
    )
    given["preprocessor"].max_text_tokens = 3
    directories.add(build(given, tmp_path).directory)
    with torch.no_grad():
        given["text_encoder"].model.embeddings.word_embeddings.weight[6] += 1
    directories.add(build(given, tmp_path).directory)
    validation = given["dataset"].splits["validation"]
    changed = dataclasses.replace(validation, texts=("fox", *validation.texts[1:]))
    given["dataset"] = dataclasses.replace(given["dataset"], splits={**given["dataset"].splits, "validation": changed})
    directories.add(build(given, tmp_path).directory)
    given["reads"] = [reads_at(1)]
    directories.add(build(given, tmp_path).directory)
    assert len(directories) == 8


def test_what_is_stored_follows_the_disk_budget_and_is_said_before(given: dict[str, Any], tmp_path: Path) -> None:
    """Not what the folder is called, so that a resumed run finds its features on any budget."""
    said: list[str] = []
    expected = {
        "attention": (
            "image tokens at layer 1, 2, 3, data attention at 1, 2; text tokens at layer 0, 1, 2, data attention at "
            "0, 1; "
        ),
        "every layer": "image tokens at layer 1, 2, 3; text tokens at layer 0, 1, 2; ",
        "smallest layer": (
            "image tokens at layer 1 alone, those at 2, 3 computed from them whenever read; text tokens at layer 0 "
            "alone, those at 1, 2 computed from them whenever read; "
        ),
    }
    budget, names = 10**6, set()
    for tier, words in expected.items():
        said.clear()
        store = build(
            given,
            tmp_path / tier,
            attention=True,
            disk_bytes=budget,
            on_note=said.append,
            on_progress=lambda done, total: said.append("progress"),
        )
        size = sum(path.stat().st_size for path in store.directory.rglob("*.npy"))
        assert store.contents.tier == tier and store.size_bytes == size <= budget
        assert said[0] == (
            f"features: {words}{format_bytes(size)} of the {format_bytes(budget)} that features.disk allows, as float16"
        )
        assert said[1] == "progress"
        budget = size - 1
        names.add(store.directory.name)
    assert len(names) == 1
    with pytest.raises(
        DataError, match=rf"features.disk: {budget / 1024:.2f} KiB is too little; .* need {size / 1024:.2f} KiB"
    ):
        build(given, tmp_path / "none", disk_bytes=budget)
    assert not left(tmp_path / "none")


def test_attention_is_stored_only_if_it_is_asked_for(given: dict[str, Any], tmp_path: Path) -> None:
    assert build(given, tmp_path / "without").contents.tier == "every layer"
    given["reads"] = [reads_at(2)]  # one fusing layer: there is nothing that attention could save
    assert build(given, tmp_path / "last", attention=True).contents.tier == "every layer"


def test_progress_counts_every_view_and_every_text(given: dict[str, Any], tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    build(given, tmp_path, views=3, on_progress=lambda done, total: said.append((done, total)))
    total = 36 * 3 + 36 + 12 + 12
    assert said[0] == (0, total) and said[-1] == (total, total) and said == sorted(said)


@pytest.mark.usefixtures("_every_step_is_durable")
@pytest.mark.parametrize("stopped_at", range(1, 8))
def test_a_build_stopped_after_any_step_goes_on(
    given: dict[str, Any], tmp_path: Path, stopped_at: int, opened: list[str]
) -> None:
    whole = content(build(given, tmp_path / "whole", attention=True, views=2))
    progress: list[int] = []

    def stop(done: int, total: int) -> None:
        progress.append(done)
        if len(progress) == stopped_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(given, tmp_path / "stopped", attention=True, views=2, on_progress=stop)
    assert [name.endswith(".building") for name in left(tmp_path / "stopped")] == [True]
    building = next((tmp_path / "stopped" / "features").glob("*.building"))
    done = json.loads((building / "progress.json").read_text())["done"]
    assert done <= stopped_at
    with pytest.raises(DataError):
        FeatureStore(building)

    again: list[int] = []
    store = build(
        given, tmp_path / "stopped", attention=True, views=2, on_progress=lambda done, total: again.append(done)
    )
    assert again[0] == progress[done] and again == sorted(again)
    assert content(store) == whole
    assert left(tmp_path / "stopped") == [store.directory.name]


@pytest.mark.usefixtures("_every_step_is_durable")
def test_a_stopped_build_of_another_plan_is_not_gone_on_with(given: dict[str, Any], tmp_path: Path) -> None:
    whole = content(build(given, tmp_path / "whole"))

    def stop(done: int, total: int) -> None:
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(given, tmp_path / "stopped", disk_bytes=40_000, on_progress=stop)
    seen: list[int] = []
    store = build(given, tmp_path / "stopped", on_progress=lambda done, total: seen.append(done))
    assert seen[0] == 0 and content(store) == whole


def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
    def stops(*arguments: Any) -> None:
        function(*arguments)
        raise KeyboardInterrupt

    return stops


def test_a_build_stopped_between_its_last_two_writes_has_nothing_left_to_compute(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "complete", stopping(feature_cache.complete))
        with pytest.raises(KeyboardInterrupt):
            build(given, tmp_path)
    assert [name.endswith(".building") for name in left(tmp_path)] == [True]
    opened.clear()
    store = build(given, tmp_path)
    assert left(tmp_path) == [store.directory.name]
    assert len(opened) == 1  # one tells how many tokens an image makes


def test_damage_is_not_taken_over_where_a_build_was_stopped_behind_its_last_write(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "forget_progress", stopping(lambda directory: None))
        with pytest.raises(KeyboardInterrupt):
            build(given, tmp_path)
    (directory,) = (path for path in (tmp_path / "features").iterdir() if path.suffix != ".lock")
    assert (directory / "progress.json").is_file()
    store = FeatureStore(directory)
    whole = content(store)
    path = directory / "train" / "image_02.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert content(build(given, tmp_path)) == whole


class Builder:
    """A process that builds, and stops behind its second step until `release`; the first is durable by then."""

    def __init__(self, project: Project, cache: Path) -> None:
        self.cache, self.hold = cache, cache / "hold"
        cache.mkdir()
        self.hold.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.building", str(project.root), str(cache), str(self.hold)],
            cwd=REPOSITORY,
        )

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            for path in self.cache.glob("features/*.building/progress.json"):
                if json.loads(path.read_text())["done"] >= count:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no {count} steps; exit status {self.process.poll()}")

    def release(self) -> None:
        self.hold.unlink()


@pytest.fixture
def builder(project: Project, tmp_path: Path) -> Iterator[Builder]:
    started = Builder(project, tmp_path / "cache")
    yield started
    started.process.kill()
    started.process.wait()


def start_waiting(given: dict[str, Any], cache: Path) -> tuple[threading.Thread, list[Any]]:
    """Build in a thread until it says that it waits; what it says and at last its store."""
    said: list[Any] = []
    thread = threading.Thread(
        target=lambda: said.append(
            build(given, cache, on_note=said.append, on_progress=lambda done, total: said.append(done))
        )
    )
    thread.start()
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said[0].startswith("features: another process builds them; waiting for it (")
    return thread, said


def test_of_two_processes_one_builds_and_one_waits_and_uses_it(
    given: dict[str, Any], builder: Builder, opened: list[str]
) -> None:
    builder.wait_for_steps(1)
    thread, said = start_waiting(given, builder.cache)
    builder.release()
    thread.join(60)
    assert builder.process.wait(60) == 0
    assert len(said) == 2 and isinstance(said[1], FeatureStore) and not opened


def test_one_who_waits_takes_over_from_a_builder_killed_by_kill_9(
    given: dict[str, Any], builder: Builder, tmp_path: Path, opened: list[str]
) -> None:
    whole = content(build(given, tmp_path / "whole"))
    opened.clear()
    builder.wait_for_steps(1)
    thread, said = start_waiting(given, builder.cache)
    builder.process.kill()
    thread.join(60)
    store = said[-1]
    assert content(store) == whole
    assert "features: an earlier build was stopped; it goes on from there" in said
    assert next(entry for entry in said if isinstance(entry, int)) >= 32
    done = given["dataset"].splits["train"].images[:32]
    assert not set(opened[1:]) & set(done)  # the first tells how many tokens an image makes
    assert left(builder.cache) == [store.directory.name]


@pytest.mark.parametrize(
    "name",
    ["train/image_02.npy", "validation/text_00.npy", "train/labels.npy", "features.json", "train/text_starts.npy"],
)
def test_a_damaged_byte_is_found_and_the_store_is_built_anew(given: dict[str, Any], tmp_path: Path, name: str) -> None:
    store = build(given, tmp_path)
    whole = content(store)
    path = store.directory / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    said: list[str] = []
    assert content(build(given, tmp_path, on_note=said.append)) == whole
    assert said[0].startswith(f"features: {store.directory} is damaged (") and name in said[0]
    assert said[0].endswith("); they are computed anew")
    assert left(tmp_path) == [store.directory.name]


def test_a_missing_or_cut_off_file_is_found_even_where_contents_are_not_read(
    given: dict[str, Any], tmp_path: Path
) -> None:
    store = build(given, tmp_path)
    path = store.directory / "train" / "image_01.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"image_01.npy has {len(whole) - 1} bytes in place of {len(whole)}"):
        FeatureStore(store.directory)
    path.unlink()
    with pytest.raises(DataError, match=r"No such file .*image_01.npy"):
        FeatureStore(store.directory)
    assert (build(given, tmp_path).directory / "train" / "image_01.npy").read_bytes() == whole


def test_contents_are_read_again_only_where_a_file_has_changed(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(given, tmp_path)
    hashed: list[Path] = []
    original = feature_files._sha256
    monkeypatch.setattr(feature_files, "_sha256", lambda path: hashed.append(path) or original(path))
    build(given, tmp_path)
    assert not hashed
    touched = store.directory / "train" / "text_01.npy"
    os.utime(touched, ns=(0, 0))
    build(given, tmp_path)
    build(given, tmp_path)
    assert hashed == [touched]
    (store.directory / "verified.json").unlink()
    build(given, tmp_path)
    assert len(hashed) == 1 + len(store.contents.files)


def test_a_feature_too_large_for_half_precision_names_the_way_out(given: dict[str, Any], tmp_path: Path) -> None:
    with torch.no_grad():
        given["image_encoder"].model.layers[0].mlp.fc2.bias += 1e6
    with pytest.raises(DataError, match=r"not finite in float16: the largest is 1e\+06.*; set features.dtype: float32"):
        build(given, tmp_path)
    assert not left(tmp_path)
    assert build(given, tmp_path, dtype="float32").contents.dtype == "float32"


def test_an_image_that_cannot_be_read_ends_the_build(own_project: Project, tmp_path: Path) -> None:
    given = parts(own_project)
    name = given["dataset"].splits["validation"].images[3]
    (own_project.images / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"image '{name}' cannot be read"):
        build(given, tmp_path)
    assert not left(tmp_path)


def test_too_little_free_disk_is_found_before_the_start(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 1024))
    with pytest.raises(
        DataError, match=rf"{tmp_path}/features: .* they need 59\.\d\d KiB, 50\.00 KiB are free; make room"
    ):
        build(given, tmp_path)
    assert not left(tmp_path)


def test_a_limit_of_the_system_is_told_like_a_full_disk(given: dict[str, Any], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be stored \(File too large\): they need 59"):
            build(given, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not left(tmp_path)


def full_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(10**6))

    def fails(*arguments: Any) -> Any:
        if next(calls) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments)

    return fails


@pytest.mark.usefixtures("_every_step_is_durable")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("posix_fallocate", count) for count in (0, 9)),
        *(("pwrite", count) for count in (0, 9, 25)),
        *(("fsync", count) for count in (0, 22, 30, 70)),
    ],
)
def test_a_disk_that_fills_up_leaves_no_store_and_the_build_goes_on_later(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    whole = content(build(given, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full_after(count, getattr(os, name)))
        message = f"{tmp_path}/full/features: the features cannot be stored \\(No space left on device\\): they need 59"
        with pytest.raises(DataError, match=message):
            build(given, tmp_path / "full")
    assert all(entry.endswith(".building") for entry in left(tmp_path / "full"))
    said: list[int] = []
    store = build(given, tmp_path / "full", on_progress=lambda done, total: said.append(done))
    assert content(store) == whole and left(tmp_path / "full") == [store.directory.name]


def test_writing_atomically_is_what_progress_relies_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    write_atomically(path, b"1")
    monkeypatch.setattr(os, "fsync", full_after(0, os.fsync))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"2")
    assert path.read_bytes() == b"1"
