"""One modality alone: the text encoder, fine-tuned.

The PMF paper's unimodal baseline "BERT" (Li et al., CVPR 2023, table 1): all weights of the encoder are trained, and a
linear classifier on its CLS token; dropout is off, as in all families here.
"""

from nas.families import TextOnlyArchitecture
from nas.fusion.one_encoder import FineTuned


class TextOnly(FineTuned):
    """The text encoder with all its weights, and a linear classifier; images are not read."""

    kind = TextOnlyArchitecture
    modality = "text"
