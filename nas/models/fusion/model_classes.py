"""The model classes of fusion families; a model, and so torch, is imported only when it is loaded.

Families are registered in `nas/models/fusion/register.py`, or through an entry point of another package; see
`nas.search.space.family_registry`.
"""

from typing import TYPE_CHECKING, cast

from nas.common.registry import load_object
from nas.search.space.family_registry import FAMILIES

if TYPE_CHECKING:
    from nas.models.fusion.base import FusionModel


def load_model_class(family: str) -> "type[FusionModel]":
    """Import the model class of a family.

    Raises:
        KeyError: If the family is not registered.
        ExtensionError: If its class cannot be imported.
    """
    return cast("type[FusionModel]", load_object(FAMILIES[family].model))
