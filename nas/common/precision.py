"""The precisions of matrix products, without slow imports: the command line lists them in its help."""

from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_CHOICES = ("auto", *PRECISIONS)
"""What a user can choose: `auto` is what the device is fast at."""
