import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.config import load_config
from nas.data import FeatureStore, Preprocessor, open_images, open_or_build, read_manifest
from nas.encoders import load_encoder, load_image_processor, load_tokenizer
from nas.errors import DataError
from nas.fusion import base_features
from tests.conftest import Project


def parts(project: Project) -> dict[str, Any]:
    config = load_config(project.root / "search.yaml")
    return {
        "dataset": read_manifest(config.data, ("train", "validation")),
        "images": open_images(Path(config.data.images)),
        "preprocessor": Preprocessor(
            image_processor=load_image_processor(config.encoders.image),
            tokenizer=load_tokenizer(config.encoders.text),
            max_text_tokens=config.data.max_text_tokens,
        ),
        "image_encoder": load_encoder(config.encoders.image, "image"),
        "text_encoder": load_encoder(config.encoders.text, "text"),
        "fusion_layers": (0, 1, 2),
        "on_progress": lambda done, total: None,
    }


@pytest.mark.parametrize("fusion_layer", [0, 1, 2])
def test_a_batch_is_the_base_features_of_its_raw_samples(project: Project, tmp_path: Path, fusion_layer: int) -> None:
    given = parts(project)
    store = open_or_build(**given, cache_directory=tmp_path)
    samples, chosen = given["dataset"].splits["validation"], [5, 0, 3]
    pixels = given["preprocessor"].pixel_values([given["images"].open(samples.images[index]) for index in chosen])
    ids, mask = given["preprocessor"].tokens([samples.texts[index] for index in chosen])
    z, t = base_features(given["image_encoder"], given["text_encoder"], fusion_layer, pixels, ids, mask)
    batch = store.splits["validation"].batch(chosen, fusion_layer)
    torch.testing.assert_close(batch.image_tokens, z, rtol=1e-3, atol=1e-3)
    if batch.text_mask is None:
        assert bool(mask.all())
    else:
        assert torch.equal(batch.text_mask, mask)
    torch.testing.assert_close(batch.text_tokens[mask], t[mask], rtol=1e-3, atol=1e-3)
    assert batch.labels.tolist() == samples.labels[chosen].tolist()


def test_a_second_search_finds_the_same_features(project: Project, tmp_path: Path) -> None:
    first = open_or_build(**parts(project), cache_directory=tmp_path)
    calls: list[int] = []
    again = open_or_build(
        **{**parts(project), "on_progress": lambda done, total: calls.append(done)}, cache_directory=tmp_path
    )
    assert again.directory == first.directory and not calls


def test_whatever_changes_the_numbers_changes_the_folder(project: Project, tmp_path: Path) -> None:
    given = parts(project)
    directories = {open_or_build(**given, cache_directory=tmp_path).directory}
    given["preprocessor"].max_text_tokens = 3
    directories.add(open_or_build(**given, cache_directory=tmp_path).directory)
    with torch.no_grad():
        given["text_encoder"].model.embeddings.word_embeddings.weight[6] += 1
    directories.add(open_or_build(**given, cache_directory=tmp_path).directory)
    validation = given["dataset"].splits["validation"]
    changed = dataclasses.replace(validation, texts=("fox", *validation.texts[1:]))
    given["dataset"] = dataclasses.replace(given["dataset"], splits={**given["dataset"].splits, "validation": changed})
    directories.add(open_or_build(**given, cache_directory=tmp_path).directory)
    given["fusion_layers"] = (1,)
    directories.add(open_or_build(**given, cache_directory=tmp_path).directory)
    assert len(directories) == 5


def test_a_failed_build_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    given = parts(project)
    with torch.no_grad():
        given["image_encoder"].model.layers[0].mlp.fc2.bias += 1e6
    with pytest.raises(DataError, match="not finite in float16"):
        open_or_build(**given, cache_directory=tmp_path)
    assert not list((tmp_path / "features").iterdir())


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: is no usable folder of features"):
        FeatureStore(tmp_path)


def test_one_image_of_many_samples_is_stored_once(project: Project, tmp_path: Path) -> None:
    given = parts(project)
    train = given["dataset"].splits["train"]
    shared = dataclasses.replace(train, images=(train.images[0],) * len(train))
    given["dataset"] = dataclasses.replace(given["dataset"], splits={"train": shared})
    store = open_or_build(**given, cache_directory=tmp_path)
    assert len(np.load(store.directory / "train" / "image_01.npy")) == 1
    batch = store.splits["train"].batch([0, 7], 0)
    assert torch.equal(batch.image_tokens[0], batch.image_tokens[1])
