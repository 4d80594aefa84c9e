"""Visual prompt tuning (Jia et al., ECCV 2022, "VPT-deep"): prompts in the layers of the frozen image encoder.

As the PMF paper has it (Li et al., CVPR 2023, table 1), with prompts of length 10 in every layer. They are initialised
as PMF's are, from N(0, 0.02), and stand behind the data instead of behind CLS, which no layer can tell apart.

Genes: the first layer with prompts, and their number, in the model or in each layer.
"""

from nas.models.fusion.single_encoder import DeepPrompts
from nas.models.fusion.vpt.architecture import VPTArchitecture


class VPT(DeepPrompts):
    """Prompts of the image encoder, and a linear classifier; texts are not read."""

    architecture_class = VPTArchitecture
    modality = "image"
