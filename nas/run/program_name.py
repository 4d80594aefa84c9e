"""Name this program in messages as the user called it."""

import sys
from pathlib import Path

_INSTALLED = "pmf-nas"


def program_call() -> str:
    """Return how a command line of this program begins: `pmf-nas` where installed, else `python run_search.py`."""
    return _INSTALLED if Path(sys.argv[0]).name == _INSTALLED else "python run_search.py"
