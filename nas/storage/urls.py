"""URLs of databases: stored with a run, and shown without their passwords."""

import os
import re
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from nas.common.errors import StudyError

EXAMPLES = "sqlite:///study.db or postgresql://user:password@host/database"


def storable_url(url: str, directory: Path) -> str:
    """Return a URL as it is stored with a run: without the password, and with a relative path from the run directory.

    A file that was named by a relative path is found again after the run was moved together with it. The database's
    other ways to provide a password (PGPASSWORD, a password file) still work.

    Args:
        url: The URL, whose relative path starts at the working directory.
        directory: The run directory.

    Raises:
        StudyError: If it is not the URL of a database.
    """
    try:
        parsed = sqlalchemy.make_url(url).set(password=None)
    except (ArgumentError, ValueError) as error:
        raise StudyError(
            f"--storage {redacted_url(url)}: not the URL of a database; expected for example {EXAMPLES}"
        ) from error
    path = _sqlite_path(parsed)
    if path is not None and not path.is_absolute():
        parsed = parsed.set(database=os.path.relpath(path.resolve(), directory.resolve()))
    query = {name: value for name, value in parsed.query.items() if name != "password"}
    return parsed.set(query=query).render_as_string(hide_password=False)


def stored_url(url: str, directory: Path) -> str:
    """Return a URL that `storable_url` has returned as it is used.

    Args:
        url: The stored URL.
        directory: The run directory.

    Raises:
        StudyError: If it is not the URL of a database.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StudyError(
            f"{directory}: storage: not the URL of a database; expected for example {EXAMPLES}, got {redacted_url(url)}"
        ) from error
    path = _sqlite_path(parsed)
    if path is None or path.is_absolute():
        return url
    place = (directory.resolve() / path).resolve()
    return parsed.set(database=str(place)).render_as_string(hide_password=False)


def _sqlite_path(url: sqlalchemy.URL) -> Path | None:
    """Return the file of a SQLite database; None for anything else."""
    is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    return Path(str(url.database)) if is_file and "uri" not in url.query else None


def redacted_url(url: str) -> str:
    """Return a URL without its password, also if it cannot be parsed."""
    hidden = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)
