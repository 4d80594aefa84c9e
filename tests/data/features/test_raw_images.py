"""Features of which nothing is stored: images are decoded, and frozen layers computed, whenever a batch is read."""

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nas.common.errors import DataError
from nas.data.decoding import picture_bytes
from nas.data.features.inputs import FeatureSources
from nas.data.features.raw_images import AT_ONCE_BYTES, RawImages, decoding_bytes, join_names, split_names
from nas.data.features.store import Batch, FeatureStore
from nas.data.images import FolderImages
from nas.models.encoders.base import Encoder
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.search.space import RAW, WHOLE, EntryLayers
from nas.training.batches import features_of_batch
from tests.data.features.test_store import sources  # noqa: F401 - a fixture
from tests.models.fusion.test_contract import fresh
from tests.support.building import build, described
from tests.support.tiny import reads_at

ENTRIES = [reads_at(0), reads_at(1), reads_at(2), EntryLayers(RAW, RAW), EntryLayers(None, 1), EntryLayers(2, None)]


@pytest.fixture(scope="module")
def every(sources: FeatureSources) -> FeatureSources:  # noqa: F811 - the fixture
    """The sources, with models that train encoders and models that use one only."""
    return dataclasses.replace(sources, entry_layers=frozenset(ENTRIES))


@pytest.fixture(scope="module")
def stored(every: FeatureSources, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return build(every, tmp_path_factory.mktemp("stored"), dtype="float32", views=3)


@pytest.fixture(scope="module")
def nothing(every: FeatureSources, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return build(every, tmp_path_factory.mktemp("nothing"), storage="none", views=3)


def tensors(batch: Batch) -> dict[str, Tensor]:
    names = ("image_tokens", "text_tokens", "text_mask", "labels")
    return {name: values for name in names if (values := getattr(batch, name)) is not None}


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_batches_are_those_of_stored_features(stored: FeatureStore, nothing: FeatureStore, entry: EntryLayers) -> None:
    for name, chosen, views in (("train", [7, 0, 7, 3], [2, 0, 1, 2]), ("validation", [1, 4], None)):
        found, expected = (store.splits[name].batch(chosen, entry, views) for store in (nothing, stored))
        torch.testing.assert_close(tensors(found), tensors(expected), atol=1e-5, rtol=1e-5)
        assert found.image_layers is None and found.text_layers is None, "the encoders are on the CPU"
        part = np.array([9, 7, 3, 0])
        found, expected = (store.splits[name].subset(part).batch([1, 2], entry) for store in (nothing, stored))
        torch.testing.assert_close(tensors(found), tensors(expected), atol=1e-5, rtol=1e-5)


def test_store_has_readouts_token_ids_and_no_tokens(stored: FeatureStore, nothing: FeatureStore) -> None:
    assert nothing.contents.tier == "nothing"
    assert {path.name for path in (nothing.directory / "train").iterdir()} == {
        *("labels.npy", "image_index.npy", "image_names.npy", "text_starts.npy", "text_lengths.npy", "text_raw.npy"),
        *("text_index.npy", "image_pixels.npy"),
        *("image_pooled.npy", "image_mean.npy", "text_pooled.npy", "text_mean.npy"),
    }
    assert nothing.size_bytes < stored.size_bytes / 10
    found, expected = (store.splits["train"].readouts("pooled", "mean") for store in (nothing, stored))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert all(nothing.splits["train"].can_read(entry) for entry in ENTRIES)


@pytest.mark.parametrize("family", ["pmf", "mbt"])
def test_step_has_the_logits_and_gradients_of_stored_features(
    family: str, every: FeatureSources, stored: FeatureStore, nothing: FeatureStore
) -> None:
    found = []
    for store in (stored, nothing):
        model = fresh(family, pair=(every.image_encoder, every.text_encoder))
        batch = store.splits["train"].batch([4, 0, 9], model.entry_layers())
        logits = model(features_of_batch(batch))
        torch.autograd.backward(logits.square().mean())
        assert all(weight.grad is None for weight in every.image_encoder.parameters())
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append({"logits": logits.detach(), **gradients})
    assert len(found[0]) > 1
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)


def test_weights_of_a_worker_in_bfloat16_are_computed_in_it(every: FeatureSources, tmp_path: Path) -> None:
    sources = dataclasses.replace(every, entry_layers=frozenset({reads_at(0), reads_at(2)}))  # noqa: F811
    for storage, first_layers in (("none", (WHOLE, WHOLE)), ("lowest_layer", reads_at(0))):
        store = build(sources, tmp_path, storage=storage, dtype="float32")
        tails: list[Encoder] = []
        for encoder, start in zip((sources.image_encoder, sources.text_encoder), first_layers, strict=True):
            assert start is not None
            path = tmp_path / f"{storage}{len(tails)}.pt"  # mapped, so that each has its own
            save_tail(encoder, start, path, "bfloat16")
            tails.append(load_tail(encoder.config, start, path))
        images = RawImages(sources.images, sources.preprocessor)
        opened = FeatureStore(store.directory, (tails[0], tails[1]), images)
        found, expected = (entry.splits["train"].batch([1, 2], reads_at(2)) for entry in (opened, store))
        for name in ("image_tokens", "text_tokens"):
            difference = getattr(found, name).float() - getattr(expected, name)
            assert 0 < float(difference.norm() / getattr(expected, name).norm()) < 2**-5, (storage, name)


def test_threads_decode_the_same_pixels(every: FeatureSources) -> None:
    names, views = list(every.dataset.splits["train"].images[:7]), [0, 1, 2, 0, 1, 2, 0]
    one, three = (RawImages(every.images, every.preprocessor, threads).pixel_values(names, views) for threads in (1, 3))
    assert torch.equal(one, three)


def test_store_knows_the_largest_picture(every: FeatureSources, stored: FeatureStore, nothing: FeatureStore) -> None:
    names = list(dict.fromkeys(every.dataset.splits["train"].images))
    counts = [width * height for width, height in (every.images.open(name).size for name in names)]
    assert np.load(nothing.directory / "train" / "image_pixels.npy").tolist() == counts
    assert nothing.splits["train"].largest_picture == max(counts)
    assert {split.largest_picture for split in stored.splits.values()} == {0}, "no batch decodes an image"


class CountedImages(FolderImages):
    """Images of which the number that is open at the same time is counted."""

    def __init__(self, location: Path) -> None:
        super().__init__(location)
        self._lock, self._open, self.most = threading.Lock(), 0, 0

    def open(self, name: str) -> Image.Image:
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        time.sleep(0.01)  # lets other threads open images meanwhile
        image = super().open(name)
        with self._lock:
            self._open -= 1
        return image


@pytest.mark.parametrize(("pixels", "count"), [(400, 6), (500_000, 2), (50_000_000, 1)])
def test_as_many_pictures_are_decoded_at_the_same_time_as_fit(every: FeatureSources, pixels: int, count: int) -> None:
    images = CountedImages(every.images.location)
    names = list(every.dataset.splits["train"].images[:12])
    raw = RawImages(images, every.preprocessor, threads=6, memory_bytes=AT_ONCE_BYTES)
    assert raw.pixel_values(names, [0] * len(names), pixels).shape[0] == 12
    assert images.most == raw.thread_count(pixels) == count
    assert count * picture_bytes(pixels) <= decoding_bytes(pixels)
    assert RawImages(images, every.preprocessor, threads=6).thread_count(pixels) == 6, "without a limit"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_memory_of_a_picture_is_predicted(every: FeatureSources, mode: str, tmp_path: Path) -> None:
    size = (2000, 1500)
    values = np.random.default_rng(0).integers(0, 256, (15, 20, 4), dtype=np.uint8)
    picture = Image.fromarray(values).convert("RGBA" if mode == "RGBA" else "RGB").resize(size)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
    picture.save(tmp_path / "large.png", compress_level=1)
    raw = RawImages(FolderImages(tmp_path), every.preprocessor)
    before = reset_peak()
    raw.pixel_values(["large.png"], [0])
    needed = peak_rss() - before
    assert size[0] * size[1] * 4 < needed <= picture_bytes(size[0] * size[1])


def reset_peak() -> int:
    """Reset the largest memory of this process to its present one, and return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_rss()


def peak_rss() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_paths_of_images_identify_the_store(every: FeatureSources, tmp_path: Path) -> None:
    """Without tokens, a store that was built under other paths would read images that are no longer there."""
    train = every.dataset.splits["train"]
    for name in train.images:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture = every.images.open(name)
        assert isinstance(picture, Image.Image)
        picture.save(tmp_path / f"moved-{name}")
    images = dataclasses.replace(train, images=tuple(f"moved-{name}" for name in train.images))
    dataset = dataclasses.replace(every.dataset, splits={"train": images})
    same = dataclasses.replace(every.dataset, splits={"train": train})
    source = type(every.images)(tmp_path)
    moved = described(every, dataset=dataset, images=source)
    here = described(every, dataset=same)
    directories = {storage: build(moved, tmp_path, storage=storage).directory for storage in ("none", "every_layer")}
    assert build(here, tmp_path, storage="none").directory != directories["none"]
    assert build(moved, tmp_path, storage="none").directory == directories["none"]


def test_store_that_is_opened_without_images_names_them(nothing: FeatureStore) -> None:
    split = FeatureStore(nothing.directory).splits["train"]
    assert split.readouts("pooled", "pooled")[0].shape[0] == len(split)
    with pytest.raises(ValueError, match=r"images are not stored; expected images to decode, got None"):
        split.batch([0], reads_at(0))


def test_too_little_disk_names_the_way_out(every: FeatureSources, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"features\.disk: .*; features\.storage: none caches no tokens"):
        build(every, tmp_path, disk_bytes=1000)
    with pytest.raises(DataError, match=r"features\.disk: .* for what the linear classifier reads, got 1000 B$"):
        build(every, tmp_path, disk_bytes=1000, storage="none")


def test_notes_say_what_is_computed_and_what_it_costs(every: FeatureSources, tmp_path: Path) -> None:
    seen: list[str] = []
    build(every, tmp_path, storage="none", on_note=seen.append)
    assert seen[0].startswith("Encoder outputs are not cached (features.storage: none) but for what the linear")
    assert ", and are cached for no layer. Choices" in seen[1] and seen[1].endswith(" s longer")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=[]), min_size=1), min_size=1))
def test_joined_paths_are_split_again(names: list[str]) -> None:
    encodable = [name for name in names if _is_path(name)]
    assert split_names(join_names(encodable)) == (encodable or [""])


def _is_path(name: str) -> bool:
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name
    except UnicodeEncodeError:
        return False
