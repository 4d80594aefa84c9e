"""Start the classifiers of a model from the solution of the linear problem on what they read.

With its initial prompts and mappings, a model reads constants of the data set. So the best classifiers are those of a
logistic regression, and the first step of the training starts from its logits rather than from random ones (linear
probing before fine-tuning: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from nas.common.devices import computing_in
from nas.common.precision import Precision
from nas.config.training_schema import RecipeConfig
from nas.data.features.store import FeatureSplit
from nas.data.samples import Labels
from nas.models.fusion.base import FusionModel
from nas.search.space import Architecture
from nas.training.batches import features_of_batch
from nas.training.evaluate import evaluation_batches
from nas.training.linear import LinearProblem, LinearSolution, solver_bytes
from nas.training.losses import build_loss
from nas.training.stopping import StopRequested

_PENALTY_OF_ALL = 180.0
_PENALTY_OF_ALL_SEVERAL = 1.8
"""The L2 penalty for standardized inputs times the number of training samples, for one label and for several labels.

The best ones on validation for the 1,804 samples of the demo. Held-out training samples chose weaker ones, because
similar drawings are among them. With several labels, the loss is the mean over labels, most of which are easy.
"""

_TOLERANCE = 1e-4


def start_classifiers(
    model: FusionModel,
    split: FeatureSplit,
    recipe: RecipeConfig,
    *,
    batch_size: int,
    architecture: Architecture | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Set the classifiers of a model with initial weights, as the recipe says.

    With `classifier_start: linear`, they become the solution of the linear problem on what they read of the training
    samples; with `random`, they stay as they are.

    Args:
        model: The model with its initial weights; only the classifiers change.
        split: The training samples.
        recipe: The recipe, whose loss is minimized.
        batch_size: The number of samples that are computed at once; affects results only by rounding.
        architecture: The slice whose classifiers are set; the architecture of the model by default.
        should_stop: Called before every batch and every evaluation of the loss.

    Raises:
        StopRequested: If `should_stop` returned true.
    """
    if recipe.classifier_start == "random":
        return
    if not any(_linear_classifiers(model)):
        return  # the classes are texts
    inputs, classifiers = _read_all(model, split, architecture, batch_size, recipe.precision, should_stop)
    loss = build_loss(recipe, split.labels, model.num_classes)
    penalty = start_penalty(split.labels)
    problem = LinearProblem(inputs, split.labels, model.num_classes, loss)
    _set_classifiers(classifiers, problem.solve(penalty, tolerance=_TOLERANCE, should_stop=should_stop))


def start_penalty(labels: Labels) -> float:
    """Return the L2 penalty for training samples with these labels, in proportion to 1 / N."""
    return (_PENALTY_OF_ALL if labels.ndim == 1 else _PENALTY_OF_ALL_SEVERAL) / len(labels)


def start_bytes(train_count: int, size: int, num_classes: int, *, forward_bytes: int) -> int:
    """Return the memory that `start_classifiers` needs in addition to the model, in bytes.

    Args:
        train_count: The number of training samples.
        size: The number of inputs of all classifiers.
        num_classes: The number of classes.
        forward_bytes: The memory of a forward pass.
    """
    inputs = 4 * train_count * size
    return max(inputs + forward_bytes, solver_bytes(train_count, 0, size, num_classes))


@torch.no_grad()
def _read_all(
    model: FusionModel,
    split: FeatureSplit,
    architecture: Architecture | None,
    batch_size: int,
    precision: Precision,
    should_stop: Callable[[], bool],
) -> tuple[Tensor, list[nn.Linear]]:
    """Return the inputs of all classifiers side by side, (N, D), float32, in the order of the split; and these."""
    device = model.device
    values = torch.empty(len(split), 0)
    with _recorded_inputs(model) as read:
        for indices in evaluation_batches(split.text_lengths, batch_size):
            if should_stop():
                raise StopRequested
            batch = split.batch(indices, model.entry_layers(architecture)).to(device)
            with computing_in(precision, device):
                model(features_of_batch(batch), architecture)
            rows = torch.cat(list(read.values()), dim=1)
            if not values.numel():
                values = torch.empty(len(split), rows.shape[1])
            values[torch.from_numpy(indices)] = rows.cpu()
    return values, list(read)


def _linear_classifiers(model: FusionModel) -> Iterator[nn.Linear]:
    """Yield the linear classifiers of a model, whose names are those that `FusionModel` prescribes."""
    for name, module in model.named_children():
        if "classifier" in name and isinstance(module, nn.Linear):
            yield module


@contextlib.contextmanager
def _recorded_inputs(model: FusionModel) -> Iterator[dict[nn.Linear, Tensor]]:
    """Record the input of every classifier that a forward pass calls, (B, D): logits are the mean of theirs."""
    found: dict[nn.Linear, Tensor] = {}

    def record(classifier: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(classifier, nn.Linear)
        found[classifier] = inputs[0]

    handles = [classifier.register_forward_pre_hook(record) for classifier in _linear_classifiers(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _set_classifiers(classifiers: Sequence[nn.Linear], solution: LinearSolution) -> None:
    """Give classifiers the weights whose mean logits are those of the solution."""
    start = 0
    for classifier in classifiers:
        stop = start + classifier.in_features
        classifier.weight.copy_(len(classifiers) * solution.weight[:, start:stop])
        classifier.bias.copy_(solution.bias)
        start = stop
