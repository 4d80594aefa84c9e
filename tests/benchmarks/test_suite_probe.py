"""The probes of the suite recover planted signals, and neither choose on validation nor read test."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.suite.data_set import Sample, write_data_set
from benchmarks.suite.probe import PENALTIES, Problem, bilinear, probe_task
from benchmarks.suite.tasks import TASKS

COUNT, WIDTH = 240, 6


def samples_with(labels: Sequence[tuple[str, ...]]) -> list[Sample]:
    """Return samples in pairs of one picture, a third of them for validation."""
    return [
        Sample(f"{i // 2}.png", "", of_sample, "validation" if i >= COUNT * 2 // 3 else "train")
        for i, of_sample in enumerate(labels)
    ]


def test_separable_labels_are_found_and_noise_is_not() -> None:
    """Noise gets about the score of a constant answer."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, COUNT)
    problem = Problem.of(TASKS["clipart"], samples_with([("abc"[label],) for label in classes]))
    noise = rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
    assert problem.score(noise + 4 * np.eye(WIDTH, dtype=np.float32)[classes])["score"] > 0.95
    assert problem.score(noise)["score"] < 0.5
    assert problem.constant() == pytest.approx(np.mean(classes[160:] == np.bincount(classes[:160]).argmax()))


def test_several_labels_are_scored_by_micro_f1() -> None:
    """A sample may have none; the best constant answer gives every label that helps."""
    rng = np.random.default_rng(0)
    present = rng.random((COUNT, 2)) < (0.7, 0.1)
    labels = [tuple(name for name, there in zip("ab", row, strict=True) if there) for row in present]
    problem = Problem.of(TASKS["clipart-keywords"], samples_with(labels))
    signal = np.hstack([present * 4.0, rng.standard_normal((COUNT, WIDTH))]).astype(np.float32)
    assert problem.score(signal)["score"] > 0.95
    tested = present[160:]
    right = tested[:, 0].sum()  # the answer a for every sample
    assert problem.constant() == pytest.approx(2 * right / (len(tested) + tested.sum()))


def test_penalty_is_chosen_on_held_out_pictures_of_training() -> None:
    """Both samples of a picture are held out together, and the labels of validation change nothing."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
    labels = [("x",) if row[0] + rng.normal() > 0 else ("y",) for row in features]
    samples = samples_with(labels)
    problem = Problem.of(TASKS["clipart"], samples)
    assert problem.is_held_out.sum() == 40
    assert (problem.is_held_out[::2] == problem.is_held_out[1::2]).all()
    assert not (problem.is_held_out & ~problem.is_train).any()
    turned = [
        s if s.split == "train" else Sample(s.image, "", ("y" if s.labels == ("x",) else "x",), s.split)
        for s in samples
    ]
    other = Problem.of(TASKS["clipart"], turned).score(features)
    found = problem.score(features)
    assert found["C"] == other["C"]
    assert found["C"] in PENALTIES
    assert found["score"] == pytest.approx(1 - other["score"])


def test_products_find_what_no_linear_classifier_of_both_does() -> None:
    """The label is whether the signs of two features agree."""
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((2, COUNT, WIDTH)).astype(np.float32)
    labels = [("yes",) if agree else ("no",) for agree in image[:, 0] * text[:, 0] > 0]
    problem = Problem.of(TASKS["clipart"], samples_with(labels))
    assert problem.score(np.hstack([image, text]))["score"] < 0.65
    product = bilinear(image, text, problem.is_train)
    assert product.shape == (COUNT, WIDTH**2)
    assert problem.score(product)["score"] > 0.75


def test_probe_reads_training_and_validation_only(tmp_path: Path) -> None:
    """A test sample without a picture is no problem; features are kept."""
    pictures = {}
    for number in range(9):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (28 * number, 0, 100)).save(file, "PNG")
        pictures[f"{number}.png"] = file.getvalue()
    samples = [
        Sample(f"{i}.png", f"word {i % 2}", ("odd" if i % 2 else "even",), "train" if i < 8 else "validation")
        for i in range(9)
    ]
    built = write_data_set(tmp_path / "clipart", samples, pictures)
    with built.manifest.open("a") as file_of_rows:
        file_of_rows.write("missing.png,word 1,odd,test\n")
    figures = probe_task(TASKS["clipart"], tmp_path)
    assert figures["samples"] == {"train": 8, "validation": 1}
    assert set(figures["scores"]) == {"constant", "text CLS", "text mean", "vit-tiny-clipart"}  # no DINOv2 there
    assert figures["scores"]["text CLS"]["score"] == 1
    assert json.dumps(figures)
    kept = tmp_path / "features" / "clipart-vit-tiny-clipart.npz"
    with np.load(kept) as file_of_features:
        assert file_of_features["cls"].shape == (9, 192)
