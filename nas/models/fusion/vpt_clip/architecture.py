"""The architectures of deep visual prompts in CLIP. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.class_text_genes import PROMPT_LENGTH, SAMPLE_TEXT
from nas.models.fusion.clip_prompts.architecture import BRANCHES, PROMPT_DEPTH, DeepPromptsArchitecture
from nas.search.space import EncoderSizes, GeneValue


@dataclass(frozen=True)
class VPTCLIPArchitecture(DeepPromptsArchitecture):
    """Prompts in the first layers of the image encoder.

    Args:
        prompt_depth: The number J of layers with prompts of their own, from the first layer on.
        prompt_length: The number b of prompts of each of these layers.
        sample_text: What is done with a sample's own text; the papers have none.
    """

    family = "vpt_clip"
    title = "VPT, CLIP"
    source = (
        "Visual prompt tuning (Jia et al., ECCV 2022) of CLIP, as in Khattak et al. (CVPR 2023, arXiv 2210.03117, "
        "table 1): learned prompts in the first layers of its image encoder."
    )
    genes = (PROMPT_DEPTH, PROMPT_LENGTH, SAMPLE_TEXT)

    branches = BRANCHES.index("vision")
    coupling = 0
    initial_text = 0

    prompt_depth: GeneValue
    prompt_length: GeneValue
    sample_text: int = 0

    @classmethod
    def largest_values(cls, sizes: EncoderSizes) -> dict[str, int]:
        """Return the number of layers of the image encoder."""
        return {PROMPT_DEPTH.name: sizes.image_layers}
