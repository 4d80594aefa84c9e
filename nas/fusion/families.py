"""All fusion families, by the name that search files have for them."""

from collections.abc import Mapping

from nas.fusion.base import FusionModel
from nas.fusion.pmf import PMF

FAMILIES: Mapping[str, type[FusionModel]] = {model.kind.family: model for model in (PMF,)}
"""Name → model; a family is added as one file and an entry here."""
