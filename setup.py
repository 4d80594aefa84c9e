"""Copies the search files of the checkout, and the demo that they use, into built packages as `nas/templates`.

Everything else is in `pyproject.toml`. An editable installation reads them where they are.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TEMPLATES = ("search_spaces", "demo/data", "demo/encoders")


class BuildWithTemplates(build_py):
    """Builds the Python packages with the templates."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        here = Path(__file__).resolve().parent
        target = Path(self.build_lib, "nas", "templates")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for folder in TEMPLATES:
            shutil.copytree(here / folder, target / folder)


setup(cmdclass={"build_py": BuildWithTemplates})
