"""Visual prompt tuning (Jia et al., ECCV 2022, "VPT-deep"): prompts in the layers of the frozen image encoder.

As in the PMF paper (Li et al., CVPR 2023, table 1), with 10 prompts in every layer. They are initialized from
N(0, 0.02) like those of PMF, and follow the data instead of CLS, which makes no difference to a layer.

Genes: the first layer with prompts, and their number, in the model or in each layer.
"""

from nas.models.fusion.single_encoder import DeepPrompts
from nas.models.fusion.vpt.architecture import VPTArchitecture


class VPT(DeepPrompts):
    """Prompts of the image encoder, and a linear classifier; texts are not read."""

    architecture_class = VPTArchitecture
    modality = "image"
