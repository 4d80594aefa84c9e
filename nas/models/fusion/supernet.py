"""One set of weights for every architecture of a space: weight entanglement by prefix slices.

As in AutoFormer (Chen et al., ICCV 2021, section 3.2): an architecture uses the first M prompts and the first h mapping
units of the largest one, and a layer has the same weights in every architecture that uses it. Alternatives without an
order (`Gene.names`) share nothing.
"""

import torch
from torch import nn

from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.model_classes import load_model_class
from nas.search.space import Architecture, SearchSpace


def build_supernet(
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    space: SearchSpace,
    num_classes: int,
    seed: int,
    class_texts: ClassTexts | None = None,
) -> FusionModel:
    """Build the model that has the weights of a whole space; its forward accepts any architecture of the space."""
    return build_model(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=space.supernet,
        num_classes=num_classes,
        seed=seed,
        class_texts=class_texts,
    )


def build_model(
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    architecture: Architecture,
    num_classes: int,
    seed: int,
    class_texts: ClassTexts | None = None,
) -> FusionModel:
    """Build a model of an architecture with initial weights that depend only on the seed.

    Encoders that the family trains start from their pretrained weights, and learned words may start from those of
    `class_texts`, which only families that read the texts of the classes need.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model_class(architecture.family)(
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            architecture=architecture,
            num_classes=num_classes,
            class_texts=class_texts,
        )


@torch.no_grad()
def extract(supernet: FusionModel, architecture: Architecture) -> FusionModel:
    """Copy the slice of an architecture into a standalone model, which returns the same logits.

    The weights of the slice never leave the device of the supernet.
    """
    image_encoder, text_encoder = supernet.encoders
    model = type(supernet)(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=architecture,
        num_classes=supernet.num_classes,
        class_texts=supernet.class_texts,
    )
    for name, tensor in list(model.named_parameters()):
        # Along each axis, a trained tensor of a slice is a prefix of the supernet's tensor.
        source = supernet.get_parameter(supernet.source_of(name, architecture))
        values = source[tuple(slice(size) for size in tensor.shape)].to(tensor.dtype, copy=True)
        # Not copied into the new tensor, which is on the CPU: a GPU would be waited for, once for every tensor.
        torch.utils.swap_tensors(tensor, nn.Parameter(values, requires_grad=tensor.requires_grad))
    return model
