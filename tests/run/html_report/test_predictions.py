"""The errors of a model that the report shows, for one label and for several."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.images import open_images
from nas.data.samples import Samples
from nas.run.html_report.predictions import describe_predictions

NAMES = ("a", "b", "c")


def samples_of(labels: np.ndarray) -> Samples:
    count = len(labels)
    return Samples(tuple(f"{i}.png" for i in range(count)), tuple(f"text {i}" for i in range(count)), labels)


def test_most_certain_errors_come_first() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.05, 0.05, 0.9]])
    found = describe_predictions(probabilities.log(), samples_of(np.array([0, 0, 1, 0])), NAMES, None, None)
    assert (found.error_count, found.sample_count, found.has_several_labels) == (3, 4, False)
    assert [mistake.text for mistake in found.mistakes] == ["text 3", "text 1", "text 2"]
    first = found.mistakes[0]
    assert (first.truth, first.guess, first.picture) == (("a",), ("c",), None)
    assert (first.confidence, first.truth_probability) == pytest.approx((0.9, 0.05))


def test_errors_of_several_labels_are_ranked_by_their_worst_label() -> None:
    probabilities = torch.tensor([[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.4, 0.9, 0.2]])
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=np.float32)
    found = describe_predictions(probabilities.logit(), samples_of(labels), NAMES, 0.5, None)
    assert (found.error_count, found.has_several_labels) == (2, True)
    assert [(mistake.truth, mistake.guess) for mistake in found.mistakes] == [
        (("a",), ("a", "b")),
        (("a", "b"), ("b",)),
    ]
    assert [mistake.confidence for mistake in found.mistakes] == pytest.approx([0.9, 0.4])
    assert found.details.confusion.shape == (3, 2, 2)


def test_pictures_are_small_copies_and_missing_ones_are_none(tmp_path: Path) -> None:
    Image.effect_noise((900, 600), 80).convert("RGB").save(tmp_path / "0.png")
    logits = torch.tensor([[0.0, 5.0, 0.0], [0.0, 5.0, 0.0]])
    found = describe_predictions(logits, samples_of(np.array([0, 0])), NAMES, None, open_images(tmp_path))
    pictures = [mistake.picture for mistake in found.mistakes]
    assert pictures[0] is not None and pictures[0].startswith("data:image/jpeg;base64,") and len(pictures[0]) < 40_000
    assert pictures[1] is None
