"""The model classes of fusion families. Imports no model, and so no torch, until one is asked for.

Families are registered in `nas/models/register.py`, or by another package's entry point; see
`nas.search.space.families`.
"""

from typing import TYPE_CHECKING, cast

from nas.common.registry import load_object
from nas.search.space.families import FAMILIES

if TYPE_CHECKING:
    from nas.models.fusion.base import FusionModel


def load_model_class(family: str) -> "type[FusionModel]":
    """The class of a family's models.

    Raises:
        KeyError: If there is no such family.
        ExtensionError: If its class cannot be imported.
    """
    return cast("type[FusionModel]", load_object(FAMILIES[family].model))
