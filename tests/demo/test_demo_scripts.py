"""The parts of the demo scripts that could produce wrong figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from demo.build_data import Groups, clean_title, file_family, label_of, look_alikes
from demo.clipart_package import ClipArt
from demo.pretrain_image_encoder import (
    BATCH,
    GRID,
    LEARNING_RATE,
    PATCH_DIMS,
    POOLED_DIMS,
    VIEWS,
    Material,
    Student,
    batch_loss,
    crop,
    learning_rate,
    principal,
    view_boxes,
)
from demo.probe import choose_penalty, fit, predict, probe


def drawing(source: str, links: tuple[str, ...] = (), author: str = "") -> ClipArt:
    """Return a drawing with a path."""
    return ClipArt(source, links, "", author, ())


def test_titles_lose_the_words_of_class_and_folders() -> None:
    """Singular and plural forms, any case, camelCase and underscores are recognized."""
    source = "animals/mammals/big_cats/lion.png"
    assert clean_title("Mammal: the big Lion_02", source, "animals") == "the Lion"
    assert clean_title("bigCat Animals 3", source, "animals") == ""
    assert clean_title("Category of Foods", source, "animals") == "Category of"


def test_versions_of_a_file_name_are_one_family() -> None:
    """Numbers, versions and a truncated author name do not distinguish families; folders do."""
    plain = file_family(drawing("food/fruit/apple_jon_phillips_01.png", author="Jon Phillips"))
    for name in ("food/apple_bw_jon_phil_02.png", "food/fruit/apple_v2.png", "food/Apple3_red.png"):
        assert file_family(drawing(name, author="Jon Phillips")) == plain
    assert file_family(drawing("plants/apple_01.png")) != plain


def test_label_is_the_folder_or_the_only_linking_class() -> None:
    """An excluded folder gives no label, but a link from a class does."""
    assert label_of(drawing("food/apple.png", ("plants/apple.png",))) == "food"
    assert label_of(drawing("computer/icons/a.png")) is None
    assert label_of(drawing("computer/icons/a.png", ("people/a.png",))) == "people"
    assert label_of(drawing("shapes/a.png", ("people/a.png", "food/a.png"))) is None


def test_groups_are_transitive() -> None:
    """Two pairs that share a member form one group; keys of None form none."""
    groups = Groups(5)
    groups.union_by(["x", "x", None, None, "y"])
    groups.union(1, 2)
    assert [groups.find(member) for member in range(5)] == [0, 0, 0, 3, 4]


def test_look_alikes_finds_shifted_and_colourless_copies() -> None:
    """A shifted or grey copy is found, a different shape is not."""
    rng = np.random.default_rng(0)
    shape = np.full((128, 128, 3), 255, dtype=np.uint8)
    shape[30:80, 20:70] = (200, 30, 30)
    shape[40:60, 30:60] = (20, 60, 220)
    moved = np.roll(shape, (12, 20), axis=(0, 1))
    grey = np.repeat(shape.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    other = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert {(0, 1), (0, 2)} <= set(look_alikes(np.stack([shape, moved, grey, other])))
    assert all(3 not in pair for pair in look_alikes(np.stack([shape, moved, grey, other])))


def test_crops_of_image_and_feature_map_agree() -> None:
    """A cropped and mirrored ramp is the same whether sampled finely or on the grid."""
    ramp = (torch.arange(56) + 0.5).div(28).sub(1).expand(1, 1, 56, 56).contiguous()
    box = torch.tensor([[0.25, -0.1, 0.5]])
    for flip in (1.0, -1.0):
        fine = crop(ramp, box, torch.tensor([flip]), 64).reshape(8, 8, 8, 8).mean((1, 3))
        coarse = crop(torch.nn.functional.avg_pool2d(ramp, 8), box, torch.tensor([flip]), GRID)
        expected = 0.25 + 0.5 * flip * ((torch.arange(8) + 0.5) / 4 - 1)
        assert torch.allclose(fine.mean(0), expected, atol=0.01)
        assert torch.allclose(coarse[0, 0, 0], expected, atol=0.01)


def test_first_view_is_whole_and_all_views_are_inside() -> None:
    """No view exceeds the border of its image."""
    boxes = view_boxes(50)
    assert boxes.shape == (50, VIEWS, 3)
    assert (boxes[:, 0] == [0, 0, 1]).all()
    assert (np.abs(boxes[..., :2]).max(axis=2) + boxes[..., 2] <= 1 + 1e-6).all()


def test_principal_axes_are_half_whitened() -> None:
    """The standard deviations of the scores are the square roots of those of the data, up to a common factor."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 3, generator=generator) * torch.tensor([16.0, 4.0, 1.0]) + 5
    mean, axes = principal(rows, 3)
    spread = ((rows - mean) @ axes).std(0)
    assert torch.allclose(spread / spread[2], torch.tensor([4.0, 2.0, 1.0]), rtol=0.05)


@pytest.mark.long
@pytest.mark.parametrize("all_patches", [False, True])
def test_pretraining_loss_is_finite_and_reaches_every_weight(all_patches: bool) -> None:
    """One batch of random material gives every weight a gradient."""
    rng = np.random.default_rng(0)
    count, texts = BATCH + 2, 5
    material = Material(
        squares=rng.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8),
        boxes=view_boxes(count),
        text_of=torch.arange(count) % texts,
        texts=torch.nn.functional.normalize(torch.randn(texts, 16), dim=1),
        teacher=rng.normal(size=(count, VIEWS, 7, 7, POOLED_DIMS + PATCH_DIMS)).astype(np.float16),
    )
    student = Student(text_dims=16)
    loss, parts = batch_loss(student, material, rng, all_patches)
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    assert parts.shape == (3,)
    for name, weights in student.named_parameters():
        assert weights.grad is not None, name
        assert torch.isfinite(weights.grad).all()


def test_learning_rate_rises_and_falls() -> None:
    """The rate rises from near 0 to the maximum and falls to 0."""
    rates = [learning_rate(progress) for progress in (0.0, 0.03, 0.5, 1.0)]
    assert rates[0] < rates[2] < rates[1] == pytest.approx(LEARNING_RATE)
    assert rates[3] == pytest.approx(0.0)


def test_probe_learns_separable_features_but_not_noise() -> None:
    """Separable features are learned; noise stays near chance and gets a strong penalty."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    rows = [
        {"label": "abc"[int(label)], "split": "train" if i < 160 else "validation", "family": str(i)}
        for i, label in enumerate(labels)
    ]
    noise = torch.randn(240, 6, generator=generator)
    signal = noise + 4 * torch.nn.functional.one_hot(labels, 6)
    assert probe(signal, rows, "validation")["accuracy"] > 0.95
    assert probe(noise, rows, "validation")["accuracy"] < 0.5
    families = [row["family"] for row in rows[:160]]
    assert choose_penalty(noise[:160], labels[:160], families, 3) >= 0.1
    weights = fit(signal, labels, 3, 0.01)
    assert torch.equal(weights, fit(signal, labels, 3, 0.01))
    assert (predict(signal, weights) == labels).float().mean() > 0.95
