"""One modality only: the fine-tuned text encoder.

The unimodal baseline "BERT" of the PMF paper (Li et al., CVPR 2023, table 1): all weights of the encoder are
trained, and a linear classifier reads its CLS token; dropout is off, as in all families here.
"""

from nas.models.fusion.single_encoder import FineTuned
from nas.models.fusion.text_only.architecture import TextOnlyArchitecture


class TextOnly(FineTuned):
    """The text encoder with all its weights, and a linear classifier; images are not read."""

    architecture_class = TextOnlyArchitecture
    modality = "text"
