"""One set of weights for every architecture of a space: weight entanglement by prefix slices.

As in AutoFormer (Chen et al., ICCV 2021, section 3.2): an architecture's prompts are the first M rows of the largest
ones, its mapping the first h units, and a layer has the same weights in every architecture that has something there.
"""

import torch

from nas.models.encoders.base import Encoder
from nas.models.fusion.base import FusionModel
from nas.models.fusion.registry import load_model_class
from nas.search.space import Architecture, SearchSpace


def build_supernet(
    *, image_encoder: Encoder, text_encoder: Encoder, space: SearchSpace, num_classes: int, seed: int
) -> FusionModel:
    """The model of the space's largest architecture; its forward takes any architecture of the space."""
    return build_model(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=space.largest,
        num_classes=num_classes,
        seed=seed,
    )


def build_model(
    *, image_encoder: Encoder, text_encoder: Encoder, architecture: Architecture, num_classes: int, seed: int
) -> FusionModel:
    """A model of the architecture's family with fresh weights that depend on the seed alone.

    Encoders that the family trains start from what they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model_class(architecture.family)(
            image_encoder=image_encoder, text_encoder=text_encoder, architecture=architecture, num_classes=num_classes
        )


@torch.no_grad()
def extract(supernet: FusionModel, architecture: Architecture) -> FusionModel:
    """A stand-alone model that starts from the supernet's slice; gives the same logits as the sliced supernet."""
    image_encoder, text_encoder = supernet.encoders
    model = type(supernet)(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=architecture,
        num_classes=supernet.num_classes,
    )
    for name, tensor in model.named_parameters():
        # Every trained tensor of a slice is a prefix of the supernet's along each of its axes.
        source = supernet.get_parameter(supernet.source_of(name, architecture))
        tensor.copy_(source[tuple(slice(size) for size in tensor.shape)])
    return model
