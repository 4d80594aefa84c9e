"""The processor of an exported model makes the inputs that the search trains with."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from nas.common.errors import DataError, ExportError
from nas.config.load import load_config
from nas.data.dataset import open_dataset_images, read_dataset
from nas.data.features.inputs import pixel_values
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.run.processor import FusionProcessor, processor_of
from nas.run.sources import resolve_checkpoints
from tests.support.paths import REPOSITORY
from tests.support.project import Project

SAMPLES = 12


@pytest.fixture(scope="module")
def trained(project: Project) -> Preprocessor:
    return Preprocessor(
        image_processor=load_image_processor(str(project.root / "vit")),
        tokenizer=load_tokenizer(str(project.root / "bert")),
        max_text_tokens=4,
    )


@pytest.fixture(scope="module")
def processor(trained: Preprocessor, tmp_path_factory: pytest.TempPathFactory) -> FusionProcessor:
    """A processor that was saved and loaded."""
    folder = tmp_path_factory.mktemp("processor")
    processor_of(trained.image_processor, trained.tokenizer, trained.max_text_tokens).save_pretrained(folder)
    return FusionProcessor.from_pretrained(folder)


def assert_equal(made: Any, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> None:
    assert list(made) == ["pixel_values", "input_ids", "attention_mask"]
    assert made["pixel_values"].dtype == torch.float32 and torch.equal(made["pixel_values"], pixels)
    assert made["input_ids"].dtype == torch.int64 and torch.equal(made["input_ids"], ids)
    assert made["attention_mask"].dtype == torch.int64 and torch.equal(made["attention_mask"].bool(), mask)


def test_inputs_of_the_demo_equal_those_of_the_training_to_the_bit(tmp_path: Path) -> None:
    config = load_config(REPOSITORY / "search_spaces" / "demo.yaml")
    image, text = resolve_checkpoints(config)
    trained = Preprocessor(
        image_processor=load_image_processor(image), tokenizer=load_tokenizer(text), max_text_tokens=8
    )
    processor_of(trained.image_processor, trained.tokenizer, 8).save_pretrained(tmp_path)
    samples = read_dataset(config.data, ("validation",), compares_images=False).splits["validation"]
    names, texts = list(samples.images[:SAMPLES]), list(samples.texts[:SAMPLES])
    texts[0] *= 9
    source: Any = SimpleNamespace(preprocessor=trained, images=open_dataset_images(config.data))
    expected = pixel_values(names, 1, source), *trained.tokenize(texts)
    assert expected[1].shape[1] == 8 and trained.truncated_count(texts) > 0  # one was cut
    pictures = [source.images.open(name) for name in names]
    made = FusionProcessor.from_pretrained(tmp_path)(images=pictures, text=texts)
    assert_equal(made, *expected)


def test_pictures_of_any_mode_and_paths_are_converted_like_those_of_a_data_set(
    processor: FusionProcessor, trained: Preprocessor, tmp_path: Path
) -> None:
    transparent = Image.new("RGBA", (30, 20), (200, 10, 10, 100))
    transparent.save(tmp_path / "a.png")
    white = [Image.new("RGB", (30, 20), tuple(round(255 + (v - 255) * 100 / 255) for v in (200, 10, 10)))]
    expected = trained.pixel_values(white)
    path = tmp_path / "a.png"
    for images in (transparent, [transparent], path, [str(path)], path.read_bytes(), np.asarray(transparent)):
        assert torch.equal(processor(images=images)["pixel_values"], expected)
    with pytest.raises(DataError, match=r"^images\[0\]: not a picture; expected a picture of PIL"):
        processor(images=[np.zeros((3, 20, 20))])


@pytest.mark.parametrize("texts", [["apple", "boat cat dog egg fox"], ["egg"], ["", "\ud800 apple"]])
def test_texts_are_cut_and_padded_as_in_training(
    processor: FusionProcessor, trained: Preprocessor, texts: Sequence[str]
) -> None:
    ids, mask = trained.tokenize(texts)
    made = processor(text=texts)
    assert list(made) == ["input_ids", "attention_mask"]
    assert torch.equal(made["input_ids"], ids) and torch.equal(made["attention_mask"].bool(), mask)
    lists = processor(text=texts, padding=False, return_tensors=None)
    assert [list(row) for row in lists["input_ids"]] == [
        row[real].tolist() for row, real in zip(ids, mask, strict=True)
    ]
    longest = processor(text=texts, padding="max_length", return_tensors="np")
    assert longest["input_ids"].shape == (len(texts), 4) and longest["attention_mask"].dtype == np.int64
    assert np.array_equal(longest["input_ids"][:, : ids.shape[1]], ids.numpy())
    assert longest["attention_mask"].sum() == int(mask.sum())


def test_plain_tokenizer_of_the_folder_cuts_texts_as_in_training(
    processor: FusionProcessor, trained: Preprocessor
) -> None:
    tokenizer: PreTrainedTokenizerFast = processor.tokenizer
    assert tokenizer.model_max_length == 4
    plain = tokenizer(["boat cat dog egg fox"], truncation=True, padding=True, return_tensors="pt")
    assert list(plain) == ["input_ids", "attention_mask"]
    assert torch.equal(plain["input_ids"], trained.tokenize(["boat cat dog egg fox"])[0])
    assert trained.tokenizer.model_max_length > 4  # that of the training is a copy


def test_wrong_calls_are_errors(processor: FusionProcessor) -> None:
    with pytest.raises(ValueError, match="images and text are missing"):
        processor()
    with pytest.raises(ValueError, match="padding: not allowed"):
        processor(text=["apple"], padding="some")  # type: ignore[arg-type]


def test_folder_with_custom_code_is_refused(processor: FusionProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    assert json.loads(path.read_text()) == {"processor_class": "FusionProcessor"}
    path.write_text('{"auto_map": {"AutoProcessor": "evil.Processor"}}')
    with pytest.raises(ExportError, match="custom code is never run"):
        FusionProcessor.from_pretrained(tmp_path)
