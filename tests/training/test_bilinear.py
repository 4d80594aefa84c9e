"""The bilinear classifier's solver, against scikit-learn, its definition, and a task that only interaction solves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nas.training.bilinear import (
    LinearStart,
    ReadSamples,
    Whitening,
    bilinear_bytes,
    choose_bilinear,
    component_count,
    fit_whitening,
)
from nas.training.linear import LinearChoice, LinearProblem, choose_penalty
from nas.training.losses import Loss
from nas.training.stopping import StopRequested

LOSS = Loss(None, 0.0)


def matching(count: int, seed: int, *, image_size: int = 6, text_size: int = 5) -> ReadSamples:
    """Return pairs whose label is whether both readouts have the same sign in one direction: the problem of XOR."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], size=(2, count))
    image, text = (generator.normal(size=(count, size)) for size in (image_size, text_size))
    image[:, 1] += 3 * signs[0]
    text[:, 2] += 3 * signs[1]
    labels = (signs[0] == signs[1]).astype(np.int64)
    scales = [np.logspace(0, -1, size) for size in (image_size, text_size)]
    image, text = image * scales[0] + 2, text * scales[1] + 2
    return ReadSamples(torch.from_numpy(image).float(), torch.from_numpy(text).float(), labels)


def linear_of(train: ReadSamples, validation: ReadSamples) -> LinearChoice:
    inputs = [torch.cat([samples.image, samples.text], dim=1) for samples in (train, validation)]
    problem = LinearProblem(inputs[0], train.labels, 2, LOSS)
    return choose_penalty(problem, inputs[1], validation.labels, score=lambda metrics: metrics["accuracy"])


def bilinear_of(
    train: ReadSamples, validation: ReadSamples, linear: LinearChoice, *, components: int = 4
) -> tuple[tuple[Whitening, Whitening], LinearChoice]:
    whitenings = fit_whitening(train.image, components), fit_whitening(train.text, components)
    chosen = choose_bilinear(
        train,
        validation,
        whitenings=whitenings,
        start=LinearStart(linear.solution.weight, linear.solution.bias, linear.penalty),
        loss=LOSS,
        score=lambda metrics: metrics["accuracy"],
        should_stop=lambda: False,
    )
    return whitenings, chosen


def test_only_products_solve_a_task_in_which_only_interaction_matters() -> None:
    train, validation = matching(300, 1), matching(200, 2)
    linear = linear_of(train, validation)
    assert linear.score < 0.6
    assert bilinear_of(train, validation, linear)[1].score > 0.95


def test_choice_equals_that_of_scikit_learn_with_explicit_products() -> None:
    """A penalty for each group of inputs is one penalty for inputs of another scale."""
    train, validation = matching(150, 3), matching(100, 4)
    linear = linear_of(train, validation)
    _, chosen = bilinear_of(train, validation, linear)
    parts = []
    for readout, other in ((train.image, validation.image), (train.text, validation.text)):
        pca = PCA(4, whiten=True).fit(readout.double().numpy())
        # Scikit-learn divides by N − 1.
        parts.append([pca.transform(rows.double().numpy()) * np.sqrt(150 / 149) for rows in (readout, other)])
    inputs = []
    for index, samples in enumerate((train, validation)):
        products = np.einsum("ni,nj->nij", parts[0][index], parts[1][index]).reshape(len(samples.labels), -1)
        inputs.append(np.hstack([samples.image.double().numpy(), samples.text.double().numpy(), products]))
    mean, deviation = inputs[0].mean(axis=0), inputs[0].std(axis=0)
    ratio = np.sqrt(linear.penalty / chosen.penalty)
    scaled = [(values - mean) / deviation * np.where(np.arange(27) < 11, 1.0, ratio) for values in inputs]
    # One vector of weights for two classes, in place of two of half its length: half the penalty.
    expected = LogisticRegression(C=2 / (linear.penalty * 150), tol=1e-9, max_iter=20_000).fit(scaled[0], train.labels)
    found = chosen.logits.double().softmax(dim=1)
    torch.testing.assert_close(found, torch.from_numpy(expected.predict_proba(scaled[1])), rtol=0, atol=1e-2)


def test_components_are_uncorrelated_with_variance_1_and_those_of_principal_component_analysis() -> None:
    readout = matching(200, 5, image_size=7).image
    whitening = fit_whitening(readout, 5)
    components = whitening.components(readout).double()
    assert whitening.rank == 5
    torch.testing.assert_close(components.mean(dim=0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-4)
    moments = components.T @ components / len(components)
    torch.testing.assert_close(moments, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-4)
    expected = PCA(5).fit(readout.double().numpy()).components_
    directions = torch.nn.functional.normalize(whitening.weight.double(), dim=1)
    cosines = (directions @ torch.from_numpy(expected).T).abs()
    torch.testing.assert_close(cosines, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 2])
def test_components_beyond_the_rank_are_zero(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    readout = torch.randn(40, rank, generator=generator) @ torch.randn(rank, 6, generator=generator) + 5
    whitening = fit_whitening(readout, 4)
    assert whitening.rank == rank
    components: Tensor = whitening.components(readout)
    assert components.isfinite().all() and not components[:, rank:].any()


def test_whitening_does_not_depend_on_the_order_of_blocks_or_the_validation_samples() -> None:
    train, validation = matching(120, 6), matching(60, 7)
    linear = linear_of(train, validation)
    first, _ = bilinear_of(train, validation, linear)
    second, _ = bilinear_of(train, replace(validation, image=validation.image * 100), linear)
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(first, second, strict=True))


def test_number_of_products_is_at_most_that_of_the_training_samples() -> None:
    assert component_count(2400, (384, 384), 40) == 40
    assert component_count(180, (384, 384), 40) == 13
    assert component_count(10_000, (24, 16), 40) == 16
    assert component_count(1, (24, 16), 40) == 1


def test_memory_grows_with_components() -> None:
    sizes = [bilinear_bytes(1000, 100, (192, 384), 5, count) for count in (10, 20, 40)]
    # At least the products, and their coordinates in the history of the solver.
    assert sizes == sorted(sizes) and sizes[2] - sizes[1] > 1200 * (4 * 1100 + 40 * 8 * 5)


def test_solver_stops_on_request() -> None:
    train = matching(50, 8)
    linear = linear_of(train, train)
    whitenings = fit_whitening(train.image, 2), fit_whitening(train.text, 2)
    with pytest.raises(StopRequested):
        choose_bilinear(
            train,
            train,
            whitenings=whitenings,
            start=LinearStart(linear.solution.weight, linear.solution.bias, linear.penalty),
            loss=LOSS,
            score=lambda metrics: 0.0,
            should_stop=lambda: True,
        )
