import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.common.errors import DataError
from nas.data.augmentation import augment
from nas.data.features.eight_bits import read_dtype
from nas.data.features.inputs import FeatureSources
from nas.data.features.store import FeatureSplit, FeatureStore
from nas.models.encoders.partial_checkpoint import load_tail, save_tail
from nas.models.fusion.data_attention import data_attention
from nas.search.space import RAW, EntryLayers
from tests.support.building import build, feature_sources
from tests.support.project import build_project
from tests.support.tiny import base_features, reads_at


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> FeatureSources:
    """Return the sources of a project whose images are noise, so that all crops differ; not to be modified."""
    project = build_project(tmp_path_factory.mktemp("features") / "project")
    generator = np.random.default_rng(0)
    for path in project.images.iterdir():
        Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return feature_sources(project)


@pytest.fixture(scope="module")
def whole(sources: FeatureSources, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Return a float32 store with every layer, attention and three views."""
    return build(sources, tmp_path_factory.mktemp("whole"), dtype="float32", attention=True, views=3)


def raw(sources: FeatureSources, split: str, chosen: list[int], views: list[int]) -> tuple[torch.Tensor, ...]:
    samples = sources.dataset.splits[split]
    names = [samples.images[index] for index in chosen]
    pictures = [augment(sources.images.open(name), name, view) for name, view in zip(names, views, strict=True)]
    pixels = sources.preprocessor.pixel_values(pictures)
    return pixels, *sources.preprocessor.tokenize([samples.texts[index] for index in chosen])


@pytest.mark.parametrize("fusion_layer", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_batch_equals_the_base_features_of_its_samples(
    sources: FeatureSources, tmp_path: Path, fusion_layer: int, dtype: str
) -> None:
    store = build(sources, tmp_path, dtype=dtype)
    chosen = [5, 0, 3]
    pixels, ids, mask = raw(sources, "validation", chosen, [0, 0, 0])
    expected = base_features(sources.image_encoder, sources.text_encoder, fusion_layer, pixels, ids, mask)
    batch = store.splits["validation"].batch(chosen, reads_at(fusion_layer))
    assert batch.image_tokens.dtype == batch.text_tokens.dtype == read_dtype(dtype)
    tolerance = {"float16": 1e-3, "float32": 1e-5, "int8": 2e-2}[dtype]
    torch.testing.assert_close(batch.image_tokens.float(), expected.image_tokens, rtol=tolerance, atol=tolerance)
    assert batch.text_mask is not None and torch.equal(batch.text_mask, mask) and not bool(mask.all())
    torch.testing.assert_close(
        batch.text_tokens[mask].float(), expected.text_tokens[mask], rtol=tolerance, atol=tolerance
    )
    assert not batch.text_tokens[~mask].any()
    assert batch.labels.tolist() == sources.dataset.splits["validation"].labels[chosen].tolist()
    assert batch.image_attention is None and batch.text_attention is None


@pytest.mark.parametrize("entry", [reads_at(1), EntryLayers(None, RAW)], ids=["both", "text only, trained as a whole"])
@pytest.mark.parametrize("views", [1, 3])
def test_readouts_are_those_of_the_whole_encoders(
    sources: FeatureSources, tmp_path: Path, entry: EntryLayers, views: int
) -> None:
    store = build(dataclasses.replace(sources, entry_layers=frozenset({entry})), tmp_path, views=views)
    for name in ("train", "validation"):
        split, chosen = store.splits[name], list(range(len(store.splits[name])))
        pixels, ids, mask = raw(sources, name, chosen, [0] * len(chosen))
        with torch.no_grad():
            images = sources.image_encoder.model(pixels).last_hidden_state
            texts = sources.text_encoder.model(ids, attention_mask=mask.long()).last_hidden_state
        means = torch.stack([text[is_token].mean(dim=0) for text, is_token in zip(texts, mask, strict=True)])
        pooled, mean = split.readouts("pooled", "pooled"), split.readouts("mean", "mean")
        torch.testing.assert_close(pooled, (images[:, 0], texts[:, 0]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean, (images.mean(dim=1), means), rtol=1e-5, atol=1e-5)


def slow_texts(split: FeatureSplit, directory: Path, indices: list[int], layer: int) -> list[np.ndarray[Any, Any]]:
    rows = np.load(directory / f"text_{layer:02}.npy")
    starts = np.load(directory / "text_starts.npy")
    return [rows[starts[index] : starts[index] + split.text_lengths[index]] for index in indices]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch_equals_reading_sample_by_sample(whole: FeatureStore, data: st.DataObject) -> None:
    split, directory = whole.splits["train"], whole.directory / "train"
    indices = data.draw(st.lists(st.integers(0, len(split) - 1), min_size=1, max_size=9))
    views = data.draw(st.lists(st.integers(0, 2), min_size=len(indices), max_size=len(indices)))
    batch = split.batch(indices, reads_at(1), np.array(views))
    images, index = np.load(directory / "image_02.npy"), np.load(directory / "image_index.npy")
    for row, (sample, view) in enumerate(zip(indices, views, strict=True)):
        np.testing.assert_array_equal(batch.image_tokens[row].numpy(), images[index[sample] * 3 + view])
    texts = slow_texts(split, directory, indices, 1)
    longest = max(map(len, texts))
    assert batch.text_tokens.shape[1] == longest
    assert (batch.text_mask is None) == all(len(text) == longest for text in texts)
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(batch.text_tokens[row, : len(text)].numpy(), text)
        assert not batch.text_tokens[row, len(text) :].any()
        if batch.text_mask is not None:
            assert batch.text_mask[row].tolist() == [True] * len(text) + [False] * (longest - len(text))


def test_stored_attention_is_the_data_attention_of_the_tokens(sources: FeatureSources, whole: FeatureStore) -> None:
    split, chosen = whole.splits["train"], [7, 1, 4, 11]
    for fusion_layer in (0, 1):
        batch = split.batch(chosen, reads_at(fusion_layer))
        image_layer, text_layer = fusion_layer + 1, fusion_layer
        z = data_attention(sources.image_encoder.layers[image_layer], batch.image_tokens, None)
        encoder = sources.text_encoder
        bias = encoder.data_bias(batch.text_mask, batch.text_tokens.shape[1], torch.float32)
        t = data_attention(encoder.layers[text_layer], batch.text_tokens, bias)
        assert batch.image_attention is not None and batch.text_attention is not None and batch.text_mask is not None
        torch.testing.assert_close(batch.image_attention.attended, z.attended, rtol=0, atol=1e-5)
        torch.testing.assert_close(batch.image_attention.logsumexp, z.logsumexp, rtol=0, atol=1e-5)
        for stored, computed in (
            (batch.text_attention.attended, t.attended),
            (batch.text_attention.logsumexp, t.logsumexp),
        ):
            assert stored.shape == computed.shape and not stored[~batch.text_mask].any()
            torch.testing.assert_close(stored[batch.text_mask], computed[batch.text_mask], rtol=0, atol=1e-5)
    # In the last layer only the readout rows attend, so nothing is stored.
    last = split.batch(chosen, reads_at(2))
    assert last.image_attention is None and last.text_attention is None


def test_logsumexp_is_float32_in_a_half_precision_store(
    sources: FeatureSources, whole: FeatureStore, tmp_path: Path
) -> None:
    stored = build(sources, tmp_path, attention=True).splits["validation"].batch([0, 3], reads_at(0))
    exact = whole.splits["validation"].batch([0, 3], reads_at(0))
    assert stored.text_attention is not None and exact.text_attention is not None
    assert stored.text_attention.attended.dtype == torch.float16
    assert torch.equal(stored.text_attention.attended, exact.text_attention.attended.half())
    assert torch.equal(stored.text_attention.logsumexp, exact.text_attention.logsumexp)


def test_layers_that_are_not_stored_are_recomputed_equally(
    sources: FeatureSources, whole: FeatureStore, tmp_path: Path
) -> None:
    small = build(sources, tmp_path, dtype="float32", disk_bytes=58_000)
    assert small.contents.token_layers == {"image": (1,), "text": (0,)}
    alone = FeatureStore(small.directory)  # without encoders
    for split in ("train", "validation"):
        for fusion_layer in (0, 1, 2):
            chosen = [4, 2, 9]
            expected = whole.splits[split].batch(chosen, reads_at(fusion_layer))
            batch = small.splits[split].batch(chosen, reads_at(fusion_layer))
            assert batch.image_tokens.dtype == torch.float32 and not batch.image_tokens.requires_grad
            torch.testing.assert_close(batch.image_tokens, expected.image_tokens, rtol=0, atol=1e-5)
            torch.testing.assert_close(batch.text_tokens, expected.text_tokens, rtol=0, atol=1e-5)
            if fusion_layer:
                with pytest.raises(ValueError, match=f"image tokens at layer {fusion_layer + 1} are not stored"):
                    alone.splits[split].batch(chosen, reads_at(fusion_layer))
    torch.testing.assert_close(
        alone.splits["train"].batch([3], reads_at(0)).text_tokens,
        whole.splits["train"].batch([3], reads_at(0)).text_tokens,
    )


def test_worker_recomputes_layers_without_the_weights_below_the_stored_one(
    sources: FeatureSources, whole: FeatureStore, tmp_path: Path
) -> None:
    small = build(sources, tmp_path, dtype="float32", disk_bytes=58_000)
    save_tail(sources.image_encoder, 1, tmp_path / "tail")
    image = load_tail(sources.image_encoder.config, 1, tmp_path / "tail")
    store = FeatureStore(small.directory, (image, sources.text_encoder))
    batch = store.splits["train"].batch([4, 2, 9], EntryLayers(2, None))
    expected = whole.splits["train"].batch([4, 2, 9], reads_at(1))
    torch.testing.assert_close(batch.image_tokens, expected.image_tokens, rtol=0, atol=1e-5)


def test_view_equals_the_base_features_of_the_augmented_image(sources: FeatureSources, whole: FeatureStore) -> None:
    train, validation = whole.splits["train"], whole.splits["validation"]
    assert (train.view_count, validation.view_count) == (3, 1)
    chosen = [0, 6, 6, 2]
    pixels, ids, mask = raw(sources, "train", chosen, [1, 0, 2, 1])
    expected = base_features(sources.image_encoder, sources.text_encoder, 1, pixels, ids, mask)
    batch = train.batch(chosen, reads_at(1), views=[1, 0, 2, 1])
    torch.testing.assert_close(batch.image_tokens, expected.image_tokens, rtol=0, atol=1e-5)
    assert not torch.equal(batch.image_tokens[1], batch.image_tokens[2])
    assert torch.equal(
        train.batch(chosen, reads_at(1)).image_tokens, train.batch(chosen, reads_at(1), [0] * 4).image_tokens
    )


@pytest.mark.parametrize("views", [[3, 0], [0, -1], [1]])
def test_invalid_view_index_is_rejected(whole: FeatureStore, views: list[int]) -> None:
    with pytest.raises(ValueError, match="views: invalid indices; expected 2 numbers from 0 to 2"):
        whole.splits["train"].batch([0, 1], reads_at(0), views)


def test_shared_image_is_stored_once(sources: FeatureSources, tmp_path: Path) -> None:
    train = sources.dataset.splits["train"]
    shared = dataclasses.replace(train, images=(train.images[0],) * len(train))
    dataset = dataclasses.replace(sources.dataset, splits={"train": shared})
    store = build(dataclasses.replace(sources, dataset=dataset), tmp_path, views=2)
    assert len(np.load(store.directory / "train" / "image_01.npy")) == 2
    batch = store.splits["train"].batch([0, 7], reads_at(0))
    assert torch.equal(batch.image_tokens[0], batch.image_tokens[1])


def test_text_padding_is_not_stored(whole: FeatureStore) -> None:
    for name, split in whole.splits.items():
        assert len(np.load(whole.directory / name / "text_00.npy")) == split.text_lengths.sum()


def test_folder_that_is_not_a_store_is_named(whole: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: not a usable feature store"):
        FeatureStore(tmp_path)
    values = json.loads((whole.directory / "features.json").read_text())
    (tmp_path / "features.json").write_text(json.dumps({**values, "format": 1}))
    with pytest.raises(DataError, match="unsupported format; expected 5, got 1"):
        FeatureStore(tmp_path)
    (tmp_path / "features.json").write_text(json.dumps({**values, "class_names": ["a", "b", "c"]}))
    with pytest.raises(DataError, match=r"features\.json was altered"):
        FeatureStore(tmp_path)


def test_samples_with_the_same_token_ids_share_the_number_of_a_text(
    sources: FeatureSources, whole: FeatureStore
) -> None:
    for name, samples in sources.dataset.splits.items():
        split = whole.splits[name]
        ids = [tuple(text.tolist()) for text in sources.preprocessor.token_ids(samples.texts)]
        same = np.array([[one == other for other in ids] for one in ids])
        assert name != "train" or same.sum() > len(ids), "some texts are equal"
        np.testing.assert_array_equal(split.text_of_sample[:, None] == split.text_of_sample[None], same)
        part = np.array([3, 0, 2])
        np.testing.assert_array_equal(split.subset(part).text_of_sample, split.text_of_sample[part])
