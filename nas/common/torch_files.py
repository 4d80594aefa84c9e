"""Files of torch's own format, replaced as a whole."""

from pathlib import Path
from typing import Any

import torch

from nas.common.files import replacing


def save(path: Path, value: Any) -> None:
    """Write tensors, numbers and texts; not by way of a buffer, which would hold all of them again.

    Raises:
        OSError: If the file cannot be written; the old one is then untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch finds its own words for a full disk
                raise error.__context__ from None
            raise
