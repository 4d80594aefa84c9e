"""Fusion families by name: where each family's architecture class and model class are defined."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nas.common.registry import Registry, load_object

if TYPE_CHECKING:
    from nas.search.space.architecture import Architecture


@dataclass(frozen=True)
class Family:
    """The classes of a fusion family.

    Args:
        architecture: The subclass of `Architecture`, as `package.module:Class`; its module must not import torch.
        model: The subclass of `FusionModel`, as `package.module:Class`.
    """

    architecture: str
    model: str


FAMILIES: Registry[Family] = Registry(
    "fusion family", builtins="nas.models.fusion.register:register", entry_points="pmf_nas.families"
)


def register_family(name: str, *, architecture: str, model: str) -> None:
    """Register a fusion family.

    Args:
        name: The name in search files, equal to the `family` of the architecture class.
        architecture: The subclass of `Architecture`, as `package.module:Class`; its module must not import torch.
        model: The subclass of `FusionModel`, as `package.module:Class`.

    Raises:
        ExtensionError: If the name is taken.
    """
    FAMILIES.register(name, Family(architecture, model))


def load_architecture_class(name: str) -> "type[Architecture]":
    """Return the architecture class of a family.

    Raises:
        KeyError: If the family is not registered.
        ExtensionError: If the class cannot be imported.
    """
    return cast("type[Architecture]", load_object(FAMILIES[name].architecture))
