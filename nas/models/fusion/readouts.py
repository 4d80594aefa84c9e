"""What a classifier reads out of an encoder, as a gene of each modality. Imports no torch."""

from typing import Literal, get_args

from nas.search.space import EncoderSizes, Gene

Readout = Literal["pooled", "mean"]
"""What is read out of an encoder: what its own pooling returns, mostly CLS, or the mean over all unpadded tokens."""

READOUTS: tuple[Readout, ...] = get_args(Readout)

IMAGE_READOUT = Gene("image_readout", "R_img", 0, names=READOUTS)
TEXT_READOUT = Gene("text_readout", "R_txt", 0, names=READOUTS)


def readouts_of(value: int) -> tuple[Readout, ...]:
    """Return the readouts that the weights of a model serve, given its value of a readout gene.

    It is one, except in a supernet with a choice.
    """
    return READOUTS if value == IMAGE_READOUT.every else (READOUTS[value],)


class ReadoutGenes:
    """What architectures with a readout for each encoder have in common, beside the fields themselves."""

    image_readout: int
    text_readout: int

    @property
    def readouts(self) -> tuple[Readout, Readout]:
        """What is read out of the image and the text encoder.

        Raises:
            ValueError: If this is the architecture of a supernet, which reads several.
        """
        return _one_readout(self.image_readout), _one_readout(self.text_readout)


def _one_readout(value: int) -> Readout:
    if value == IMAGE_READOUT.every:
        raise ValueError(
            "readout: a supernet has several; expected the architecture of a slice, which has one for each encoder"
        )
    return READOUTS[value]


def readout_choices(sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
    """Return the values of the readout genes that differ: what an encoder pools may be the mean of its tokens already.

    Args:
        sizes: The sizes of the encoders.
    """
    every = tuple(range(len(READOUTS)))
    image, text = ((0,) if pools_by_mean else every for pools_by_mean in sizes.pool_by_mean)
    return {IMAGE_READOUT.name: image, TEXT_READOUT.name: text}
