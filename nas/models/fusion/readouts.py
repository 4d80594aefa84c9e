"""What a classifier reads out of an encoder, as a gene of each modality. Imports no torch."""

from typing import Literal, get_args

from nas.search.space import Gene

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


def one_readout(value: int) -> Readout:
    """Return the readout of a model, given its value of a readout gene.

    Raises:
        ValueError: If it is the value of a supernet, which serves several.
    """
    if value == IMAGE_READOUT.every:
        raise ValueError(
            "readout: a supernet has several; expected the architecture of a slice, which has one for each encoder"
        )
    return READOUTS[value]


def readout_choices(*, pools_by_mean: bool) -> tuple[int, ...]:
    """Return the values of a readout gene that differ for an encoder.

    Args:
        pools_by_mean: Whether what its own pooling returns is the mean of its tokens.
    """
    return (0,) if pools_by_mean else tuple(range(len(READOUTS)))
