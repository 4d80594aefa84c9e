"""Logits of a model of any family for all samples of a split."""

from collections.abc import Callable

import torch
from torch import Tensor

from nas.common.precision import Precision
from nas.data.features.store import FeatureSplit
from nas.models.fusion.base import FusionModel
from nas.models.fusion.bilinear.model import Bilinear
from nas.models.fusion.linear.model import Linear
from nas.training.evaluate import predict_logits


def split_logits(
    model: FusionModel,
    split: FeatureSplit,
    *,
    batch_size: int,
    precision: Precision,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Return the logits of a trained model, float32, (N, C), in the order of the split.

    Args:
        model: The model.
        split: The samples. Of models that are solved, the inputs are stored for every family.
        batch_size: The number of samples per batch; affects results only by rounding.
        precision: The precision of products of models that are not solved.
        should_stop: Called before every batch; see `predict_logits`.

    Raises:
        StopRequested: If `should_stop` returned true.
        TrainingError: If logits are not finite.
    """
    if isinstance(model, Linear):
        with torch.inference_mode():
            linear: Tensor = model.classifier(torch.cat(split.readouts(*model.architecture.readouts), dim=1))
            return linear
    if isinstance(model, Bilinear):
        with torch.inference_mode():
            read = split.readouts(*model.architecture.readouts)
            bilinear: Tensor = model.classifier(model.classifier_inputs(*read, model.architecture))
            return bilinear
    return predict_logits(model, split, batch_size=batch_size, precision=precision, should_stop=should_stop)
