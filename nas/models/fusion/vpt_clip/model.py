"""Deep visual prompts in CLIP (Khattak et al., CVPR 2023, table 1): MaPLe without prompts in the text encoder.

The method is VPT-deep (Jia et al., "Visual Prompt Tuning", ECCV 2022), with the prompts after the image tokens as in
MaPLe, and cosines with constant class texts in place of a classifier.

Genes: the depth J, the length b, and whether a sample's own text counts, which the papers do not have.
"""

from nas.models.fusion.clip_prompts.model import DeepPromptsDualEncoder
from nas.models.fusion.vpt_clip.architecture import VPTCLIPArchitecture


class VPTCLIP(DeepPromptsDualEncoder):
    """Deep prompts in the image encoder."""

    architecture_class = VPTCLIPArchitecture
