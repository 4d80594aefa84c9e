"""The architectures of VSE. Imports no torch."""

from dataclasses import dataclass

from nas.search.space import Architecture, EncoderSizes, Gene

JOINT_WIDTH = Gene("joint_width", "E", 1)
_PAPERS_WIDTH = 1024


@dataclass(frozen=True)
class VSEArchitecture(Architecture):
    """Both encoders, fine-tuned, projected into one space, and a linear classifier on the embeddings and their product.

    Args:
        joint_width: The number of dimensions E of the joint space.
    """

    family = "vse"
    title = "VSE"
    source = (
        "Visual-semantic embedding (Faghri et al., BMVC 2018, VSE++): two fine-tuned encoders projected into one "
        "space, whose dot product compares image and text."
    )
    genes = (JOINT_WIDTH,)
    trains = ("image", "text")
    embeds_pairs = True
    pretraining_objectives = ("contrastive",)

    joint_width: int

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "VSEArchitecture":
        """Return the paper's width, 1024, but none above that of the wider encoder."""
        return cls(min(_PAPERS_WIDTH, max(sizes.image_hidden_size, sizes.text_hidden_size)))
