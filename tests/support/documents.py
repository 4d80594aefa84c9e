"""The project's documents, and the code blocks in them."""

import re
from pathlib import Path

from tests.support.paths import REPOSITORY

PAGES = tuple(sorted((REPOSITORY / "docs").glob("*.md")))
DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *PAGES)


def blocks(path: Path, language: str) -> list[str]:
    """Return the content of a document's fenced code blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and mkdocs derive them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
