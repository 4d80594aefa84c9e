"""A mutated copy of the valid project, with the command that reads it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class Mutation:
    """A change of the project, and what it leads to.

    Args:
        description: The change, on one line.
        command: The words of the command line that reads what has changed; `{root}` is the folder of the project.
        is_known: Whether the effect is known: the command must give the result of the valid project, or an error, or a
            message that it does not give there.
    """

    description: str
    command: tuple[str, ...]
    is_known: bool = False


Mutator: TypeAlias = Callable[[Path, random.Random], Mutation]
"""Changes the project in a folder."""

OFFLINE = ("--workers", "0", "--cache-dir", "{cache}")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "space": ("space", "{root}/search.yaml"),
    "search": ("search", "{root}/search.yaml", "--run-dir", "{root}/new", *OFFLINE),
    "again": ("search", "{root}/search.yaml", "--run-dir", "{root}/run", *OFFLINE),
    "resume": ("resume", "{root}/run", *OFFLINE),
    "export": ("export", "{root}/run", "--output", "{root}/exported"),
    "evaluate": ("evaluate", "{root}/model", "--data", "{root}/manifest.csv", "--images", "{root}/images"),
    "predict": ("predict", "{root}/model", "--image", "{root}/images/00.png", "--text", "red cat"),
    "compare": (
        *("compare", "{root}/search.yaml", "--families", "late_concat", "--seeds", "1"),
        *("--run-dir", "{root}/comparison", *OFFLINE),
    ),
}
"""Every command, as it reads the valid project."""

TRAINS = frozenset({"search", "resume", "compare"})


def command_name(command: tuple[str, ...]) -> str:
    """Return the name of the valid command that a command, perhaps with other values, is compared with."""
    return next((name for name, words in COMMANDS.items() if words == command), command[0])


def filled(command: tuple[str, ...], root: Path, cache: Path) -> list[str]:
    """Return the words of a command for a project."""
    return [word.replace("{root}", str(root)).replace("{cache}", str(cache)) for word in command]
