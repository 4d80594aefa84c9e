"""Links, names of files and configuration examples in the documents."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.figures.draw import FOLDER, figures
from nas.config.load import load_arms
from tests.support.documents import DOCUMENTS, PAGES, anchors, blocks
from tests.support.paths import REPOSITORY

DEMO = REPOSITORY / "search_spaces" / "demo.yaml"
SECTIONS = [
    pytest.param(block, id=f"{path.name}-{place}")
    for path in DOCUMENTS
    for place, block in enumerate(blocks(path, "yaml"))
]
MAX_README_WORDS = 1200


def _ids(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", [*DOCUMENTS, REPOSITORY / "CHANGELOG.md"], ids=_ids)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"`((?:nas|search_spaces|demo|benchmarks|tests|docs|\.ci)/[\w./]*)`", path.read_text())
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("block", SECTIONS)
def test_configuration_example_is_accepted(block: str, tmp_path: Path) -> None:
    values: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    for section, content in yaml.safe_load(block).items():
        is_merged = isinstance(content, dict) and section != "space" and "reader" not in content
        values[section] = {**values.get(section, {}), **content} if is_merged else content
    path = tmp_path / "example.yaml"
    path.write_text(yaml.safe_dump(values))
    load_arms(path)


def test_example_manifest_has_the_default_columns() -> None:
    for path in (REPOSITORY / "README.md", REPOSITORY / "docs" / "data.md"):
        (block,) = blocks(path, "csv")
        rows = list(csv.DictReader(io.StringIO(block)))
        assert list(rows[0]) == ["image", "text", "label", "split"]
        assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= MAX_README_WORDS


def test_navigation_lists_every_page() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if f"- {page.name}" not in navigation] == []


@pytest.mark.parametrize("name", figures())
def test_committed_figure_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == figures()[name]
