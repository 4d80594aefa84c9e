"""URLs of databases: stored with a run, and shown without their passwords."""

import re
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from nas.common.errors import StudyError

EXAMPLES = "sqlite:///study.db or postgresql://user:password@host/database"


def storable_url(url: str) -> str:
    """Return a URL as it is stored with a run: without the password, and with the absolute path of a file.

    The database's other ways to provide a password (PGPASSWORD, a password file) still work.

    Raises:
        StudyError: If it is not the URL of a database.
    """
    try:
        parsed = sqlalchemy.make_url(url).set(password=None)
    except (ArgumentError, ValueError) as error:
        raise StudyError(
            f"--storage {redacted_url(url)}: not the URL of a database; expected for example {EXAMPLES}"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        parsed = parsed.set(database=str(Path(str(parsed.database)).resolve()))
    query = {name: value for name, value in parsed.query.items() if name != "password"}
    return parsed.set(query=query).render_as_string(hide_password=False)


def redacted_url(url: str) -> str:
    """Return a URL without its password, also if it cannot be parsed."""
    hidden = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)
