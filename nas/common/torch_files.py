"""Files in torch's own format, written atomically."""

from pathlib import Path
from typing import Any

import torch

from nas.common.files import replace_atomically


def save(path: Path, value: Any) -> None:
    """Write a value that `torch.save` supports; directly to the file, since a buffer would hold a second copy.

    Args:
        path: The file to replace.
        value: Tensors, numbers and texts, possibly nested.

    Raises:
        OSError: If the file cannot be written; the old file is unchanged.
    """
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch replaces the error of a full disk by its own
                raise error.__context__ from None
            raise
