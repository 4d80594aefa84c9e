"""The command `init`: propose a search file for a table, or write or list the templates."""

import argparse
from pathlib import Path

from nas.config.choices import COLUMNS
from nas.run.tables import text_table
from nas.run.templates import list_templates, template_text, write_search_file


def init(options: argparse.Namespace) -> None:
    """Print or write a search file, or print the list of templates.

    Args:
        options: The parsed arguments of the command.

    Raises:
        NasError: If the table cannot be used, there is no such template, or the output exists.
        OSError: If the file cannot be written.
    """
    if options.lists:
        print(text_table(("template", "content"), list_templates()))
        return
    text = _proposal(options) if options.template is None else template_text(options.template)
    if options.output is None:
        print(text, end="")
    else:
        write_search_file(options.output, text)


def _proposal(options: argparse.Namespace) -> str:
    from nas.run.proposal.search_file import propose_search_file  # noqa: PLC0415 - takes a second, which a list does not need

    columns = {role: value for role in COLUMNS if (value := getattr(options, f"{role}_column")) is not None}
    folder = Path() if options.output is None else options.output.parent
    return propose_search_file(options.table, images=options.images, columns=columns, folder=folder)
