"""The architectures of CoOp. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.class_text_genes import INITIAL_TEXT, PROMPT_LENGTH, SAMPLE_TEXT, final_outputs
from nas.search.space import Architecture, EncoderSizes, EntryLayers, GeneValue


@dataclass(frozen=True)
class CoOpArchitecture(Architecture):
    """Learned words in the texts of the classes.

    Args:
        prompt_length: The number b of learned words.
        initial_text: What they start from.
        sample_text: What is done with a sample's own text.
    """

    family = "coop"
    title = "CoOp"
    source = "CoOp (Zhou et al., IJCV 2022): learned words in the texts of the classes, which images are compared with."
    genes = (PROMPT_LENGTH, INITIAL_TEXT, SAMPLE_TEXT)
    reads_class_texts = True

    prompt_length: GeneValue
    initial_text: int = 0
    sample_text: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "CoOpArchitecture":
        """Return 4 learned words, which start from those of "a photo of a"."""
        del sizes
        return cls(4)

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return final_outputs(sizes, self.sample_text)

    def context_length(self) -> int:
        return self.value_at(PROMPT_LENGTH.name, 0)[0]
