"""One set of weights for every architecture of a space: weight entanglement by prefix slices.

As in AutoFormer (Chen et al., ICCV 2021, section 3.2): an architecture's prompts are the first M rows of the largest
ones, its mapping the first h units, and fusing layer i has the same weights in every architecture that fuses there.
"""

import torch

from nas.encoders import Encoder
from nas.fusion.pmf import PMF
from nas.space import Architecture, SearchSpace


def build_supernet(
    *, image_encoder: Encoder, text_encoder: Encoder, space: SearchSpace, class_count: int, seed: int
) -> PMF:
    """The PMF of the space's largest architecture; its forward takes any architecture of the space."""
    return build_model(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=space.largest,
        class_count=class_count,
        seed=seed,
    )


def build_model(
    *,
    image_encoder: Encoder,
    text_encoder: Encoder,
    architecture: Architecture,
    class_count: int,
    seed: int,
) -> PMF:
    """A PMF with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PMF(
            image_encoder=image_encoder, text_encoder=text_encoder, architecture=architecture, class_count=class_count
        )


@torch.no_grad()
def extract(supernet: PMF, architecture: Architecture) -> PMF:
    """A stand-alone model that starts from the supernet's slice; gives the same logits as the sliced supernet."""
    image_encoder, text_encoder = supernet.encoders
    model = PMF(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        architecture=architecture,
        class_count=supernet.image_classifier.out_features,
    )
    skipped = architecture.fusion_layer - supernet.architecture.fusion_layer
    targets = [*model.fusion_layers, model.image_classifier, model.text_classifier]
    sources = [*list(supernet.fusion_layers)[skipped:], supernet.image_classifier, supernet.text_classifier]
    for target, source in zip(targets, sources, strict=True):
        for name, tensor in target.named_parameters():
            # Every trained tensor of a slice is a prefix of the supernet's along each of its axes.
            tensor.copy_(source.get_parameter(name)[tuple(slice(size) for size in tensor.shape)])
    return model
