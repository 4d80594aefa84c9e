"""Hook of mkdocs: one API page for each package, with all of its public modules, and one for the notebook.

Generated at build time, so that a module that is added, moved or deleted needs no edit here. Nothing is imported: the
docstrings are read from the source.
"""

import runpy
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).resolve().parent.parent / "nas"
NOTEBOOK = Path(__file__).with_name("notebook.py")
PACKAGES = ("search", "models", "config", "data", "training", "memory", "storage", "execution", "run", "common")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; called by mkdocs."""
    files.append(File.generated(config, "notebook.md", content=runpy.run_path(str(NOTEBOOK))["as_markdown"]()))
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=page(package)))
    return files


def page(package: str) -> str:
    """Return the Markdown of a package's page."""
    names = [f"::: nas.{name}" for name in modules(package)]
    return "\n\n".join([f"# nas.{package}", *names]) + "\n"


def modules(package: str) -> list[str]:
    """Return the dotted names, below `nas`, of a package's public modules."""
    found = []
    for path in sorted((SOURCE / package).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return found
