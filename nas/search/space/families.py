"""Fusion families by name: the class of each family's architectures, and of its models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nas.common.registry import Registry, load_object

if TYPE_CHECKING:
    from nas.search.space.architecture import Architecture


@dataclass(frozen=True)
class Family:
    """Where the classes of a fusion family are found.

    Args:
        architecture: The subclass of `Architecture`, as `package.module:Name`; its module must not import torch.
        model: The subclass of `FusionModel`, likewise.
    """

    architecture: str
    model: str


FAMILIES: Registry[Family] = Registry("fusion family", builtins="nas.models.register", entry_points="pmf_nas.families")


def register_family(name: str, *, architecture: str, model: str) -> None:
    """Add a fusion family.

    Args:
        name: The name in search files; the architecture class has it as `family`.
        architecture: The subclass of `Architecture`, as `package.module:Name`; its module must not import torch.
        model: The subclass of `FusionModel`, likewise.

    Raises:
        ExtensionError: If the name is taken.
    """
    FAMILIES.register(name, Family(architecture, model))


def load_architecture_class(name: str) -> "type[Architecture]":
    """The class of a family's architectures.

    Raises:
        KeyError: If there is no such family.
        ExtensionError: If its class cannot be imported.
    """
    return cast("type[Architecture]", load_object(FAMILIES[name].architecture))
