"""The documentation builds without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY


@pytest.mark.slow
def test_documentation_builds_strictly_and_has_an_api_page_for_each_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packages = {path.parent.name for path in (REPOSITORY / "nas").glob("*/__init__.py")}
    pages = {path.stem for path in (tmp_path / "api").glob("*.html")}
    assert pages == packages
    assert 'src="https:' not in (tmp_path / "index.html").read_text()
