"""The weights of exported models, which are in one file or in several."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def exported_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of an exported model."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def are_equal(first: Path, second: Path) -> bool:
    """Return whether two exported models have equal weights, to the bit."""
    one, other = exported_tensors(first), exported_tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
