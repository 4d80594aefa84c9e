"""The architectures of MaPLe, and of its ablations. Imports no torch."""

from dataclasses import dataclass, replace

from nas.models.fusion.class_text_genes import INITIAL_TEXT, PROMPT_LENGTH, SAMPLE_TEXT
from nas.models.fusion.clip_prompts.architecture import BRANCHES, COUPLINGS, PROMPT_DEPTH, DeepPromptsArchitecture
from nas.search.space import Gene, GeneValue


@dataclass(frozen=True)
class MaPLeArchitecture(DeepPromptsArchitecture):
    """Prompts in the first layers of one or both encoders.

    Args:
        prompt_depth: The number J of layers with prompts of their own, from the first layer on.
        prompt_length: The number b of prompts of each of these layers.
        branches: The index in `BRANCHES` of the encoders with prompts; the paper's is the first.
        coupling: The index in `COUPLINGS` of the mapping of text prompts to image prompts, if they are coupled.
        initial_text: What the text prompts of the first layer start from, if there are some; see `InitialText`.
        sample_text: What is done with a sample's own text; the paper has none.
    """

    family = "maple"
    title = "MaPLe"
    source = (
        "Multi-modal prompt learning (Khattak et al., CVPR 2023, arXiv 2210.03117): learned prompts in the first "
        "layers of both encoders of CLIP, those of the image encoder mapped from those of the text encoder."
    )
    genes = (
        PROMPT_DEPTH,
        PROMPT_LENGTH,
        Gene("branches", "B", 0, names=BRANCHES),
        Gene("coupling", "F", 0, names=COUPLINGS, only_with=("branches", ("coupled",))),
        replace(INITIAL_TEXT, only_with=("branches", ("coupled", "independent", "language"))),
        SAMPLE_TEXT,
    )

    prompt_depth: GeneValue
    prompt_length: GeneValue
    branches: int = 0
    coupling: int = 0
    initial_text: int = 0
    sample_text: int = 0
