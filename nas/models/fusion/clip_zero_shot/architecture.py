"""The architectures of zero-shot CLIP. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nas.models.fusion.class_text_genes import SAMPLE_TEXT, final_outputs
from nas.search.space import Architecture, EncoderSizes, EntryLayers


@dataclass(frozen=True)
class CLIPZeroShotArchitecture(Architecture):
    """A contrastive checkpoint as it is; nothing is trained.

    Args:
        sample_text: What is done with a sample's own text.
    """

    family = "clip_zero_shot"
    title = "CLIP, zero-shot"
    source = (
        "CLIP (Radford et al., ICML 2021), zero-shot: images are compared with the texts of the classes, and nothing "
        "is trained."
    )
    genes = (SAMPLE_TEXT,)
    reads_class_texts = True
    embeds_pairs = True
    retrieval_values: ClassVar[Mapping[str, int]] = {SAMPLE_TEXT.name: 1}

    sample_text: int = 0

    @classmethod
    def default(cls, sizes: EncoderSizes) -> "CLIPZeroShotArchitecture":
        """Return the paper's, which knows no text of the sample."""
        del sizes
        return cls()

    def entry_layers(self, sizes: EncoderSizes) -> EntryLayers:
        return final_outputs(sizes, self.sample_text)
