"""Logistic regression on both readouts and on products of their components: the model of the family `bilinear`.

The components are the first principal ones of each readout, whitened: uncorrelated over the training samples, with
variance 1. Products of them are inputs of about equal scale, and the problem is as convex as the linear one. It starts
from the linear classifier, whose penalty the weights of the readouts keep; the penalty of the products has a path of
its own, from one so strong that they hardly count.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.data.samples import Labels
from nas.models.fusion.bilinear.model import with_products
from nas.training.linear import LinearChoice, LinearProblem, choose_penalty, solver_bytes
from nas.training.losses import Loss

_BLOCK = 2048
_SMALLEST_VARIANCE = 1e-6
"""The variance of a component, as a fraction of that of the first one, up to which it counts as constant: rounding."""


@dataclass(frozen=True)
class ReadSamples:
    """What is read out of both encoders for every sample, and the labels.

    Args:
        image: The image readouts, (N, D_img), float32.
        text: The text readouts, (N, D_txt), float32.
        labels: The labels of the samples.
    """

    image: Tensor
    text: Tensor
    labels: Labels


@dataclass(frozen=True)
class LinearStart:
    """The linear classifier on both readouts.

    Args:
        weight: Its weight, (C, D_img + D_txt).
        bias: Its bias, (C,).
        penalty: Its penalty, which the weights of the readouts keep.
    """

    weight: Tensor
    bias: Tensor
    penalty: float


@dataclass(frozen=True)
class Whitening:
    """The projection of a readout to its whitened principal components: weight · x + bias.

    Args:
        weight: The weight, (k, D), float32; a row of zeros for a component that is constant.
        bias: The bias, (k,), float32.
    """

    weight: Tensor
    bias: Tensor

    @property
    def rank(self) -> int:
        """The number of components that are not constant."""
        return int(self.weight.any(dim=1).sum())

    def components(self, readout: Tensor) -> Tensor:
        """Return the components of a readout: (B, D) → (B, k)."""
        return torch.nn.functional.linear(readout, self.weight, self.bias)


def fit_whitening(readout: Tensor, count: int) -> Whitening:
    """Return the projection to the first principal components of training samples, whitened.

    Args:
        readout: The readout of the training samples, (N, D).
        count: The number k of components, at most D.
    """
    size = readout.shape[1]
    mean = torch.stack([block.to(torch.float64).sum(dim=0) for block in readout.split(_BLOCK)]).sum(dim=0)
    mean /= len(readout)
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for block in readout.split(_BLOCK):
        centred = block.to(torch.float64) - mean
        covariance.addmm_(centred.T, centred)
    variances, directions = torch.linalg.eigh(covariance / len(readout))
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]
    is_constant = variances <= _SMALLEST_VARIANCE * variances[0].clamp_min(torch.finfo(torch.float32).tiny)
    factors = torch.where(is_constant, 0.0, variances.clamp_min(0).rsqrt())
    # The sign of an eigenvector is arbitrary: the largest entry of each is made positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))[0]
    weight = (directions * (factors * largest.sign())).T
    return Whitening(weight.float().contiguous(), (-weight @ mean).float())


def component_count(train_count: int, sizes: tuple[int, int], default: int) -> int:
    """Return the number k of components of each modality: no more products than training samples.

    Args:
        train_count: The number of training samples.
        sizes: The sizes of both readouts.
        default: The largest number.
    """
    return max(min(default, math.isqrt(train_count), *sizes), 1)


def bilinear_bytes(
    train_count: int, validation_count: int, sizes: tuple[int, int], num_classes: int, components: int
) -> int:
    """Return the memory that `choose_bilinear` needs, in bytes, the readouts included.

    Args:
        train_count: The number of training samples.
        validation_count: The number of validation samples.
        sizes: The sizes of both readouts.
        num_classes: The number of classes.
        components: The number of components of each modality.
    """
    readouts = 4 * (train_count + validation_count) * sum(sizes)
    size = sum(sizes) + components**2
    return readouts + solver_bytes(train_count, validation_count, size, num_classes, correlated_count=sum(sizes))


def choose_bilinear(
    train: ReadSamples,
    validation: ReadSamples,
    *,
    whitenings: tuple[Whitening, Whitening],
    start: LinearStart,
    loss: Loss,
    score: Callable[[Mapping[str, float]], float],
    should_stop: Callable[[], bool],
) -> LinearChoice:
    """Return the classifier on readouts and products, with the penalty of the products that is best on validation.

    Args:
        train: The training samples.
        validation: The validation samples.
        whitenings: The projections of both readouts, fitted to the training samples.
        start: The linear classifier.
        loss: The loss.
        score: Function that returns the score of some metrics, higher is better.
        should_stop: Function that is called for every evaluation of the loss.

    Raises:
        StopRequested: If `should_stop` returned true.
    """
    num_classes, size = start.weight.shape
    inputs = _classifier_inputs(train, whitenings)
    problem = LinearProblem(inputs, train.labels, num_classes, loss, correlated_count=size)
    product_count = inputs.shape[1] - size
    problem.start_from(torch.cat([start.weight, start.weight.new_zeros(num_classes, product_count)], dim=1), start.bias)
    of_readouts = torch.full((size,), start.penalty, dtype=torch.float64)

    def penalties(of_products: float) -> Tensor:
        return torch.cat([of_readouts, torch.full((product_count,), of_products, dtype=torch.float64)])

    return choose_penalty(
        problem,
        _classifier_inputs(validation, whitenings),
        validation.labels,
        score=score,
        penalties_of_inputs=penalties,
        should_stop=should_stop,
    )


def _classifier_inputs(samples: ReadSamples, whitenings: tuple[Whitening, Whitening]) -> Tensor:
    """Return the inputs of the classifier, (N, D_img + D_txt + k²), as the model computes them."""
    count = len(whitenings[0].bias)
    inputs = torch.empty(len(samples.labels), samples.image.shape[1] + samples.text.shape[1] + count**2)
    for start in range(0, len(inputs), _BLOCK):
        image, text = (rows[start : start + _BLOCK] for rows in (samples.image, samples.text))
        components = [whitening.components(rows) for whitening, rows in zip(whitenings, (image, text), strict=True)]
        inputs[start : start + _BLOCK] = with_products(image, text, *components)
    return inputs
