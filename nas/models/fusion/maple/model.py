"""MaPLe (Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023): coupled prompts in both encoders of CLIP.

As in the paper (section 3.2): b prompts in each of the first J layers of the text encoder, and in each of the first J
layers of the image encoder a linear mapping of those; `clip_prompts` says where they are. The paper's ablations are
values of the gene `branches` (table 1: deep language prompts, deep vision prompts, independent prompts in both);
`coupling` has a further one, a mapping that all layers share.

Genes: J, b, the branches, the coupling, the initial text, and whether a sample's own text counts, which the paper does
not have.
"""

from nas.models.fusion.clip_prompts.model import DeepPromptsDualEncoder
from nas.models.fusion.maple.architecture import MaPLeArchitecture


class MaPLe(DeepPromptsDualEncoder):
    """Deep prompts in one or both encoders."""

    architecture_class = MaPLeArchitecture
