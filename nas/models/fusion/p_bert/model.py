"""Deep prompts in the frozen text encoder: "P-BERT" in the PMF paper, after P-tuning v2 (Liu et al., ACL 2022).

As the PMF paper has it (Li et al., CVPR 2023, table 1), with prompts of length 10 in every layer, initialised as PMF's
are, from N(0, 0.02), without the reparameterisation that P-tuning v2 tries. A prompt is a row that the layer's frozen
projections make a key and a value of, as in VPT; P-tuning v2 learns these two themselves, twice the parameters.

Genes: the first layer with prompts, and their number, in the model or in each layer.
"""

from nas.models.fusion.p_bert.architecture import PBERTArchitecture
from nas.models.fusion.single_encoder import DeepPrompts


class PBERT(DeepPrompts):
    """Prompts of the text encoder, and a linear classifier; images are not read."""

    architecture_class = PBERTArchitecture
    modality = "text"
