"""One modality only: the fine-tuned image encoder.

The unimodal baseline "ViT" of the PMF paper (Li et al., CVPR 2023, table 1): all weights of the encoder are
trained, and a linear classifier reads its CLS token; dropout is off, as in all families here.
"""

from nas.models.fusion.image_only.architecture import ImageOnlyArchitecture
from nas.models.fusion.single_encoder import FineTuned


class ImageOnly(FineTuned):
    """The image encoder with all its weights, and a linear classifier; texts are not read."""

    architecture_class = ImageOnlyArchitecture
    modality = "image"
