"""Deep prompts in the frozen text encoder: "P-BERT" in the PMF paper, after P-tuning v2 (Liu et al., ACL 2022).

As in the PMF paper (Li et al., CVPR 2023, table 1), with 10 prompts in every layer, initialized from N(0, 0.02) like
those of PMF, without the optional reparameterization of P-tuning v2. A prompt is a token from which the frozen
projections of the layer compute a key and a value, as in VPT; P-tuning v2 learns keys and values directly, with twice
the parameters.

Genes: the first layer with prompts, and their number, in the model or in each layer.
"""

from nas.models.fusion.p_bert.architecture import PBERTArchitecture
from nas.models.fusion.single_encoder import DeepPrompts


class PBERT(DeepPrompts):
    """Prompts of the text encoder, and a linear classifier; images are not read."""

    architecture_class = PBERTArchitecture
    modality = "text"
