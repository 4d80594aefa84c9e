"""Search files that come with the program, by name: in an installed package, or in the checkout that it runs from."""

import argparse
import itertools
import re
import textwrap
from pathlib import Path

from nas.common.boundary import SMALL_FILE, read_text
from nas.common.errors import ArgumentError

_FOLDER = "search_spaces"
_EXPECTED = "a search file in UTF-8"
_SHOWN = 80
"""The length of a description in a list."""


def template_root() -> Path:
    """Return the folder that holds the search files and the demo, each in a folder of its own."""
    package = Path(__file__).resolve().parents[1]
    built = package / "templates"  # written by setup.py
    return built if (built / _FOLDER).is_dir() else package.parent


def template_names() -> list[str]:
    """Return the names of all templates; none if neither an installed package nor a checkout has them."""
    return sorted(path.stem for path in (template_root() / _FOLDER).glob("*.yaml"))


def template_path(name: str) -> Path:
    """Return the search file of a template.

    Args:
        name: The name of the template.

    Raises:
        ArgumentError: If there is none of this name.
    """
    if name not in template_names():
        raise ArgumentError(f"template {name!r}: unknown; expected one of {', '.join(template_names())}")
    return template_root() / _FOLDER / f"{name}.yaml"


def search_file(text: str) -> Path:
    """Return the search file that an argument names: a path, or the name of a template where no such file exists.

    Args:
        text: The argument.

    Raises:
        argparse.ArgumentTypeError: If it has the form of a name and is none.
    """
    path, names = Path(text), template_names()
    if path.is_file() or not re.fullmatch(r"[\w-]+", text):
        return path
    if text in names:
        return template_path(text)
    if path.exists():
        return path
    raise argparse.ArgumentTypeError(
        f"{text}: no such file; expected a search file, or the name of a template: {', '.join(names)}"
    )


def list_templates() -> list[tuple[str, str]]:
    """Return the name of each template and the first sentence of its comment."""
    found = []
    for name in template_names():
        lines = read_text(template_path(name), expected=_EXPECTED, error=ArgumentError, max_bytes=SMALL_FILE)
        head = itertools.takewhile(lambda line: line.startswith("#"), lines.splitlines())
        comment = " ".join(line[1:].strip() for line in head if "yaml-language-server" not in line)
        found.append((name, textwrap.shorten(comment.partition(". ")[0].rstrip("."), _SHOWN, placeholder=" …")))
    return found


def template_text(name: str) -> str:
    """Return a template for another folder: paths to other files of the program are absolute, the others as they are.

    Args:
        name: The name of the template.

    Raises:
        ArgumentError: If there is none of this name.
    """
    path = template_path(name)
    text = read_text(path, expected=_EXPECTED, error=ArgumentError, max_bytes=SMALL_FILE)
    text = re.sub(r"(?m)^(extends: |# yaml-language-server: \$schema=)", lambda m: f"{m[1]}{path.parent}/", text)
    return text.replace(" ../demo/", f" {template_root()}/demo/")


def write_search_file(path: Path, text: str) -> None:
    """Write a new search file.

    Args:
        path: The file, which must not exist.
        text: Its content.

    Raises:
        ArgumentError: If it exists.
        OSError: If it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ArgumentError(f"--output: {path} exists; expected a file that does not, or standard output") from error
