"""One modality alone: the text encoder, fine-tuned.

The PMF paper's unimodal baseline "BERT" (Li et al., CVPR 2023, table 1): all weights of the encoder are trained, and a
linear classifier on its CLS token; dropout is off, as in all families here.
"""

from nas.models.fusion.single_encoder import FineTuned
from nas.models.fusion.text_only.architecture import TextOnlyArchitecture


class TextOnly(FineTuned):
    """The text encoder with all its weights, and a linear classifier; images are not read."""

    architecture_class = TextOnlyArchitecture
    modality = "text"
