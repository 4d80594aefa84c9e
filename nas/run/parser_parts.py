"""What the commands of the command line have in common: their parser, and options of several of them."""

import argparse
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeAlias

from nas.common.output import visible
from nas.common.precision import PRECISION_CHOICES
from nas.run.program_name import program_call

Command = Callable[[argparse.Namespace], int | None]
"""Runs a command and returns its exit status; None is 0."""

_LONG_WORD = re.compile(r"\S{120,}")


class Parser(argparse.ArgumentParser):
    """Parser whose errors stay on one line and do not drive the terminal, whatever the arguments contain."""

    def error(self, message: str) -> NoReturn:
        line = visible(message).replace("\n", "\\n")
        super().error(_LONG_WORD.sub(lambda word: f"{word[0][:38]}...{word[0][-38:]}", line))

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        return super().parse_known_args(None if args is None else self._with_values(list(args)), namespace)

    def _with_values(self, words: list[str]) -> list[str]:
        """Join options with values that begin with a dash, as a text may: argparse would take those for options."""
        joined: list[str] = []
        for word in words:
            option = self._option_string_actions.get(joined[-1]) if joined else None
            takes_one = option is not None and option.nargs is None
            if takes_one and re.match("-.", word) and not self._may_be_option(word):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def _may_be_option(self, word: str) -> bool:
        """Return whether a word is an option of this parser, or the beginning of one."""
        name = word.partition("=")[0]
        return word == "--" or any(known.startswith(name) for known in self._option_string_actions)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a command with its help text and an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {program_call()} {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="device to compute on: auto, cpu, cuda or cuda:N (default: auto, a GPU where there is one)",
    )


def add_precision(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    """Add the option that chooses the precision.

    Args:
        parser: The parser of the command.
        default: The value without the option; None to leave it to a file.
        text: The default, for the help text.
    """
    parser.add_argument(
        "--precision",
        choices=PRECISION_CHOICES,
        default=default,
        help="precision of products: float32, bfloat16, or auto for bfloat16 on a GPU that is fast at it "
        f"(default: {text})",
    )


def add_accept_changed(parser: argparse.ArgumentParser) -> None:
    """Add the option that accepts a changed model folder."""
    parser.add_argument(
        "--accept-changed",
        action="store_true",
        help="use the model although files of its folder were changed after it was saved",
    )
