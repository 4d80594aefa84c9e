"""The feature cache: notes to the user, interrupted and concurrent builds, damage, and full disks."""

import dataclasses
import errno
import hashlib
import os
import re
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
from PIL import Image

from nas.common.errors import DataError
from nas.common.files import write_atomically
from nas.common.units import format_bytes
from nas.data.features import blocks as feature_blocks
from nas.data.features import cache as feature_cache
from nas.data.features import files as feature_files
from nas.data.features import inputs as feature_inputs
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureStore
from tests.support.building import build, content, described, feature_sources, finished_blocks
from tests.support.paths import REPOSITORY
from tests.support.project import Project
from tests.support.tiny import reads_at


@pytest.fixture
def sources(project: Project) -> FeatureSources:
    return feature_sources(project)


@pytest.fixture
def opened(sources: FeatureSources, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are opened."""
    names: list[str] = []
    images = sources.images
    original = images.open

    def open_and_record(name: str) -> Image.Image:
        names.append(name)
        return original(name)

    monkeypatch.setattr(images, "open", open_and_record)
    return names


@pytest.fixture
def _every_batch_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_inputs, "BLOCK_SIZE", feature_inputs.BATCH_SIZE)
    monkeypatch.setattr(feature_blocks, "SAVE_SECONDS", 0.0)


def left(cache: Path) -> list[str]:
    """Return the names of the entries of the cache other than locks."""
    return [path.name for path in (cache / "features").iterdir() if path.suffix != ".lock"]


def test_second_build_finds_the_cached_features(sources: FeatureSources, tmp_path: Path, opened: list[str]) -> None:
    first = build(sources, tmp_path)
    opened.clear()
    seen: list[Any] = []
    again = build(
        sources, tmp_path, on_progress=lambda done, total: seen.append(done), on_note=seen.append, disk_bytes=1
    )
    assert again.directory == first.directory and not seen and not opened


def test_cache_key_depends_on_everything_that_changes_the_numbers(sources: FeatureSources, tmp_path: Path) -> None:
    directories = {build(sources, tmp_path).directory}
    directories |= {build(sources, tmp_path, dtype="float32").directory, build(sources, tmp_path, views=2).directory}
    with_attention = build(sources, tmp_path, attention=True)
    assert with_attention.contents.tier == "attention" and build(sources, tmp_path).contents.tier == "every layer"
    directories.add(with_attention.directory)
    assert (
        build(dataclasses.replace(sources, uses_attention=False), tmp_path, attention=True).directory in directories
    ), "no model reads it"
    sources.preprocessor.max_text_tokens = 3
    directories.add(build(described(sources), tmp_path).directory)
    with torch.no_grad():
        sources.text_encoder.model.embeddings.word_embeddings.weight[6] += 1
    sources = described(sources)
    directories.add(build(sources, tmp_path).directory)
    validation = sources.dataset.splits["validation"]
    changed = dataclasses.replace(validation, texts=("fox", *validation.texts[1:]))
    dataset = dataclasses.replace(sources.dataset, splits={**sources.dataset.splits, "validation": changed})
    sources = described(sources, dataset=dataset)
    directories.add(build(sources, tmp_path).directory)
    sources = dataclasses.replace(sources, entry_layers=frozenset({reads_at(1)}))
    directories.add(build(sources, tmp_path).directory)
    assert len(directories) == 8


def test_disk_budget_selects_the_tier_and_is_reported_first(sources: FeatureSources, tmp_path: Path) -> None:
    """The budget does not affect the folder name, so that a resumed run finds its features under any budget."""
    seen: list[str] = []
    expected = {
        "attention": "",
        "every layer": "",
        "smallest layer": (
            "; only the first entry layer fits features.disk, later ones are recomputed whenever they are read"
        ),
    }
    budget, names = 10**6, set()
    for tier, restriction in expected.items():
        seen.clear()
        store = build(
            sources,
            tmp_path / tier,
            attention=True,
            disk_bytes=budget,
            on_note=seen.append,
            on_progress=lambda done, total: seen.append("progress"),
        )
        size = sum(path.stat().st_size for path in store.directory.rglob("*.npy"))
        assert store.contents.tier == tier and store.size_bytes == size <= budget
        assert seen[0] == (
            f"Encoder outputs are cached once: {format_bytes(size)} of at most {format_bytes(budget)}{restriction}"
        )
        assert seen[1].startswith("Encoder outputs take about ")
        assert (
            ", once, and are cached for the lowest layer only. " if restriction else ", and are cached for each layer. "
        ) in seen[1]
        assert seen[2] == "progress"
        budget = size - 1
        names.add(store.directory.name)
    assert len(names) == 1
    with pytest.raises(
        DataError, match=rf"features.disk: .* at least {size / 1024:.2f} KiB .*, got {budget / 1024:.2f} KiB"
    ):
        build(sources, tmp_path / "none", disk_bytes=budget)
    assert not left(tmp_path / "none")


def test_storage_can_be_forced_and_both_ways_give_the_same_inputs(sources: FeatureSources, tmp_path: Path) -> None:
    automatic, every, lowest = (
        build(sources, tmp_path, dtype="float32", storage=storage)
        for storage in ("auto", "every_layer", "lowest_layer")
    )
    assert len({store.directory for store in (automatic, every, lowest)}) == 3, "a forced store has what was asked for"
    assert content(automatic) == content(every) and every.size_bytes > lowest.size_bytes
    for layer in (0, 1, 2):
        stored, computed = (store.splits["train"].batch([5, 0, 9], reads_at(layer)) for store in (every, lowest))
        torch.testing.assert_close(computed.image_tokens, stored.image_tokens)
        torch.testing.assert_close(computed.text_tokens, stored.text_tokens)
    with pytest.raises(DataError, match=r"features.disk: .* for every entry layer as float16"):
        build(sources, tmp_path, storage="every_layer", disk_bytes=lowest.size_bytes // 2)


def test_costs_are_stated_for_both_ways_to_store(sources: FeatureSources, tmp_path: Path) -> None:
    notes: list[str] = []
    store = build(sources, tmp_path, on_note=notes.append)
    (line,) = (note for note in notes if note.startswith("Encoder outputs take about "))
    pattern = (
        r"Encoder outputs take about \S+ to compute, once, and are cached for each layer\. Choices "
        r"\(features\.storage\): each layer where fusion may start, (.+); the lowest of them only, (.+), and a "
        r"training step takes up to \S+ s longer; no layer, .+, and up to \S+ s longer"
    )
    found = re.fullmatch(pattern, line)
    assert found is not None and found[1] == format_bytes(store.size_bytes)
    assert found[2] == format_bytes(build(sources, tmp_path, storage="lowest_layer").size_bytes)
    notes.clear()
    one_layer = dataclasses.replace(sources, entry_layers=frozenset({reads_at(1)}))
    build(one_layer, tmp_path, on_note=notes.append)
    assert not any(note.startswith("Encoder outputs take about ") for note in notes), "there is one way only"


def test_attention_is_stored_only_if_configured_and_useful(sources: FeatureSources, tmp_path: Path) -> None:
    assert build(sources, tmp_path / "without").contents.tier == "every layer"
    sources = dataclasses.replace(
        sources, entry_layers=frozenset({reads_at(2)})
    )  # attention of one layer saves nothing
    assert build(sources, tmp_path / "last", attention=True).contents.tier == "every layer"


def test_progress_counts_every_view_and_every_text(sources: FeatureSources, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build(sources, tmp_path, views=3, on_progress=lambda done, total: seen.append((done, total)))
    total = 36 * 3 + 36 + 12 + 12
    assert seen[0] == (0, total) and seen[-1] == (total, total) and seen == sorted(seen)


@pytest.mark.usefixtures("_every_batch_is_durable")
@pytest.mark.parametrize("stopped_at", range(1, 8))
def test_build_interrupted_after_any_batch_is_resumed(
    sources: FeatureSources, tmp_path: Path, stopped_at: int, opened: list[str]
) -> None:
    whole = content(build(sources, tmp_path / "whole", attention=True, views=2))
    progress: list[int] = []

    def stop(done: int, total: int) -> None:
        progress.append(done)
        if len(progress) == stopped_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(sources, tmp_path / "stopped", attention=True, views=2, on_progress=stop)
    assert [name.endswith(".building") for name in left(tmp_path / "stopped")] == [True]
    building = next((tmp_path / "stopped" / "features").glob("*.building"))
    done = finished_blocks(building)
    assert done <= stopped_at
    with pytest.raises(DataError):
        FeatureStore(building)

    again: list[int] = []
    store = build(
        sources, tmp_path / "stopped", attention=True, views=2, on_progress=lambda done, total: again.append(done)
    )
    assert again[0] == progress[done] and again == sorted(again)
    assert content(store) == whole
    assert left(tmp_path / "stopped") == [store.directory.name]


@pytest.mark.usefixtures("_every_batch_is_durable")
def test_interrupted_build_of_another_plan_is_not_resumed(sources: FeatureSources, tmp_path: Path) -> None:
    whole = content(build(sources, tmp_path / "whole"))

    def stop(done: int, total: int) -> None:
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(sources, tmp_path / "stopped", disk_bytes=40_000, on_progress=stop)
    seen: list[int] = []
    store = build(sources, tmp_path / "stopped", on_progress=lambda done, total: seen.append(done))
    assert seen[0] == 0 and content(store) == whole


def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
    def stops(*arguments: Any, **named: Any) -> None:
        function(*arguments, **named)
        raise KeyboardInterrupt

    return stops


def test_build_interrupted_between_its_last_two_writes_computes_nothing_again(
    sources: FeatureSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "seal_store", stopping(feature_files.seal_store))
        with pytest.raises(KeyboardInterrupt):
            build(sources, tmp_path)
    assert [name.endswith(".building") for name in left(tmp_path)] == [True]
    opened.clear()
    store = build(sources, tmp_path)
    assert left(tmp_path) == [store.directory.name]
    assert len(opened) == 1  # one image is opened to determine the number of tokens


def test_damaged_store_with_leftover_progress_is_rebuilt_from_scratch(
    sources: FeatureSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "delete_progress", stopping(lambda directory: None))
        with pytest.raises(KeyboardInterrupt):
            build(sources, tmp_path)
    (directory,) = (path for path in (tmp_path / "features").iterdir() if path.suffix != ".lock")
    assert (directory / "build.json").is_file() and finished_blocks(directory)
    store = FeatureStore(directory)
    whole = content(store)
    path = directory / "train" / "image_02.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert content(build(sources, tmp_path)) == whole


class Builder:
    """A building process that pauses after its second block until `release`; by then the first is durable."""

    def __init__(self, project: Project, cache: Path) -> None:
        self.cache, self.hold = cache, cache / "hold"
        cache.mkdir()
        self.hold.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.building", str(project.root), str(cache), str(self.hold)],
            cwd=REPOSITORY,
        )

    def wait_for_blocks(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            if any(finished_blocks(path) >= count for path in self.cache.glob("features/*.building")):
                return
            time.sleep(0.02)
        raise AssertionError(f"no {count} blocks; exit status {self.process.poll()}")

    def release(self) -> None:
        self.hold.unlink()


@pytest.fixture
def builder(project: Project, tmp_path: Path, _every_batch_is_durable: None) -> Iterator[Builder]:
    started = Builder(project, tmp_path / "cache")
    yield started
    started.process.kill()
    started.process.wait()


def start_waiting(sources: FeatureSources, cache: Path) -> tuple[threading.Thread, list[Any]]:
    """Build in a thread and return once it waits; the list receives its notes, its progress and finally its store."""
    seen: list[Any] = []
    thread = threading.Thread(
        target=lambda: seen.append(
            build(sources, cache, on_note=seen.append, on_progress=lambda done, total: seen.append(done))
        )
    )
    thread.start()
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:
        time.sleep(0.02)
    assert seen[0].startswith("features: another process is building them; waiting for it (")
    return thread, seen


@pytest.mark.long
def test_one_of_two_processes_builds_and_the_other_waits_and_uses_it(
    sources: FeatureSources, builder: Builder, opened: list[str]
) -> None:
    builder.wait_for_blocks(1)
    thread, seen = start_waiting(sources, builder.cache)
    builder.release()
    thread.join(60)
    assert builder.process.wait(60) == 0
    assert len(seen) == 2 and isinstance(seen[1], FeatureStore) and not opened


@pytest.mark.long
def test_waiting_process_takes_over_from_a_builder_killed_by_kill_9(
    sources: FeatureSources, builder: Builder, tmp_path: Path, opened: list[str]
) -> None:
    whole = content(build(sources, tmp_path / "whole"))
    opened.clear()
    builder.wait_for_blocks(1)
    thread, seen = start_waiting(sources, builder.cache)
    builder.process.kill()
    thread.join(60)
    store = seen[-1]
    assert content(store) == whole
    assert "features: resuming an interrupted build" in seen
    assert next(entry for entry in seen if isinstance(entry, int)) >= 32
    done = sources.dataset.splits["train"].images[:32]
    assert not set(opened[1:]) & set(done)  # the first one is opened to determine the number of tokens
    assert left(builder.cache) == [store.directory.name]


@pytest.mark.parametrize(
    "name",
    ["train/image_02.npy", "validation/text_00.npy", "train/labels.npy", "features.json", "train/text_starts.npy"],
)
def test_damaged_byte_is_found_and_the_store_is_rebuilt(sources: FeatureSources, tmp_path: Path, name: str) -> None:
    store = build(sources, tmp_path)
    whole = content(store)
    path = store.directory / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    seen: list[str] = []
    assert content(build(sources, tmp_path, on_note=seen.append)) == whole
    assert seen[0].startswith(f"features: {store.directory} is damaged (") and name in seen[0]
    assert seen[0].endswith("); rebuilding it")
    assert left(tmp_path) == [store.directory.name]


def test_missing_or_truncated_file_is_found_without_hashing(sources: FeatureSources, tmp_path: Path) -> None:
    store = build(sources, tmp_path)
    path = store.directory / "train" / "image_01.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        DataError, match=rf"image_01.npy has the wrong size; expected {len(whole)} bytes, got {len(whole) - 1}"
    ):
        FeatureStore(store.directory)
    path.unlink()
    with pytest.raises(DataError, match=r"No such file .*image_01.npy"):
        FeatureStore(store.directory)
    assert (build(sources, tmp_path).directory / "train" / "image_01.npy").read_bytes() == whole


def test_only_changed_files_are_hashed_again(
    sources: FeatureSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(sources, tmp_path)
    hashed: list[Path] = []

    def hash_and_record(path: Path) -> str:
        hashed.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(feature_files, "file_sha256", hash_and_record)
    build(sources, tmp_path)
    assert not hashed
    touched = store.directory / "train" / "text_01.npy"
    os.utime(touched, ns=(0, 0))
    build(sources, tmp_path)
    build(sources, tmp_path)
    assert hashed == [touched]
    (store.directory / "verified.json").unlink()
    build(sources, tmp_path)
    assert len(hashed) == 1 + len(store.contents.files)


def test_feature_too_large_for_half_precision_names_the_setting(sources: FeatureSources, tmp_path: Path) -> None:
    with torch.no_grad():
        sources.image_encoder.model.layers[0].mlp.fc2.bias += 1e6
    place = sources.image_encoder.model.name_or_path
    assert place
    with pytest.raises(
        DataError,
        match=rf"{re.escape(place)}: .* exceeds the range of float16 .*, got 1e\+06.*; set features.dtype: float32",
    ):
        build(sources, tmp_path)
    assert not left(tmp_path)
    assert build(sources, tmp_path, dtype="float32").contents.dtype == "float32"


def test_unreadable_image_ends_the_build(own_project: Project, tmp_path: Path) -> None:
    sources = feature_sources(own_project)
    name = sources.dataset.splits["validation"].images[3]
    (own_project.images / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"image '{name}': is not an image"):
        build(sources, tmp_path)
    assert not left(tmp_path)


def test_insufficient_free_space_is_found_before_the_build(
    sources: FeatureSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 1024))
    with pytest.raises(
        DataError,
        match=rf"{tmp_path}/features: .* expected 75\.\d\d KiB of free space, got 50\.00 KiB; free some space",
    ):
        build(sources, tmp_path)
    assert not left(tmp_path)


def test_file_size_limit_is_named(sources: FeatureSources, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(DataError, match=r"\(File too large\); expected files of up to .*ulimit -f"):
            build(sources, tmp_path)
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


@pytest.mark.usefixtures("_every_batch_is_durable")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("posix_fallocate", count) for count in (0, 9)),
        *(("pwrite", count) for count in (0, 9, 25)),
        *(("fsync", count) for count in (0, 30, 38, 94)),
    ],
)
def test_disk_that_fills_up_leaves_no_store_and_the_build_is_resumed_later(
    sources: FeatureSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    whole = content(build(sources, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, full_after(count, getattr(os, name)))
        message = f"{tmp_path}/full/features: the features cannot be stored \\(No space left on device\\); expected 75"
        with pytest.raises(DataError, match=message):
            build(sources, tmp_path / "full")
    assert all(entry.endswith(".building") for entry in left(tmp_path / "full"))
    seen: list[int] = []
    store = build(sources, tmp_path / "full", on_progress=lambda done, total: seen.append(done))
    assert content(store) == whole and left(tmp_path / "full") == [store.directory.name]


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    write_atomically(path, b"1")
    monkeypatch.setattr(os, "fsync", full_after(0, os.fsync))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"2")
    assert path.read_bytes() == b"1"
