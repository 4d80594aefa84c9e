"""Genes of families that compare images with the texts of the classes. Imports no torch."""

from typing import Literal, get_args

from nas.search.space import EncoderSizes, EntryLayers, Gene

SampleText = Literal["none", "sum"]
"""What a model does with a sample's own text: nothing, or the sum of its cosines and the image's."""
InitialText = Literal["template", "random"]
"""What learned words of the class texts start from: the words of the template, which they replace, or random vectors
in place of all words before the name of the class."""

SAMPLE_TEXT = Gene("sample_text", "S", 0, names=get_args(SampleText))
INITIAL_TEXT = Gene("initial_text", "I", 0, names=get_args(InitialText))
PROMPT_LENGTH = Gene("prompt_length", "b", 1, unit="tokens")


def final_outputs(sizes: EncoderSizes, sample_text: int) -> EntryLayers:
    """Return the entry layers of a model that reads the final outputs of frozen encoders.

    Args:
        sizes: The sizes of the encoders.
        sample_text: The value of the gene; a supernet with a choice reads the texts.
    """
    return EntryLayers(sizes.image_layers, None if sample_text == 0 else sizes.text_layers)


def alternatives_of(gene: Gene, value: int) -> tuple[str, ...]:
    """Return the names that the weights of a model serve, given its value of a gene: one, except in a supernet."""
    return gene.names if value == gene.every else (gene.names[value],)
