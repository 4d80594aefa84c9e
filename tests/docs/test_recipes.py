"""The recipes of `docs/extending.md`: their code, as a package outside of `nas`, takes part in a search."""

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import MegatronBertConfig, MegatronBertModel

from tests.support.paths import REPOSITORY
from tests.support.project import Project, build_project

pytestmark = pytest.mark.long

DOCUMENT = REPOSITORY / "docs" / "extending.md"
BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `sys.path` with the package of the recipes and its entry points, as if it were installed."""
    root = tmp_path_factory.mktemp("site")
    groups: dict[str, dict[str, str]] = {}
    for language, title, content in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        if language == "python":
            path = root / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        elif language == "toml":
            _merge(groups, tomllib.loads(content)["project"]["entry-points"])
    (root / "my_fusion" / "__init__.py").touch()
    information = root / "my_fusion-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-fusion\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def search_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search file with the sections of all recipes, and data in the form of the toy reader."""
    project = build_project(tmp_path_factory.mktemp("recipes") / "project")
    _write_captions(project)
    _write_megatron(project)
    values = project.values()
    values["space"] = {}
    values["data"] = {"max_text_tokens": 8}
    for language, title, content in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        if (language, title) == ("yaml", "search.yaml"):
            _merge(values, yaml.safe_load(content))
    path = project.root / "search.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _write_captions(project: Project) -> None:
    folder = project.root / "my_data"
    folder.mkdir()
    project.images.rename(folder / "images")
    with project.manifest.open(newline="") as file:
        rows = [f"{row['split']}|{row['image']}|{row['label']}|{row['text']}\n" for row in csv.DictReader(file)]
    (folder / "captions.txt").write_text("".join(rows))


def _write_megatron(project: Project) -> None:
    torch.manual_seed(0)
    config = MegatronBertConfig(
        vocab_size=16,
        max_position_embeddings=16,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
    )
    MegatronBertModel(config).save_pretrained(project.root / "megatron")
    for path in (project.root / "bert").glob("*token*"):
        (project.root / "megatron" / path.name).write_bytes(path.read_bytes())


def _python(package: Path, *arguments: str) -> str:
    """Run Python in a fresh process that can import the package, and return its output."""
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(package: Path, search_file: Path) -> Path:
    """The run directory of a search that uses every extension."""
    directory = search_file.parent / "run"
    _python(
        package,
        *(str(REPOSITORY / "run_search.py"), "search", str(search_file), "--workers", "0"),
        *("--run-dir", str(directory), "--cache-dir", str(search_file.parent / "cache")),
        *("--storage", f"folder:///{search_file.parent / 'studies'}"),
    )
    return directory


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_family_is_searched_and_its_model_is_exported(run: Path, package: Path) -> None:
    assert {row["hidden"] for row in _rows(run) if row["stage"] == "full"} <= {"2", "4", "6", "8", "12"}
    script = """
import sys
from nas.models.classifier import FusionForClassification
print(type(FusionForClassification.from_pretrained(sys.argv[1]).fusion).__name__)
"""
    model = str(run.parent / "model")
    _python(package, str(REPOSITORY / "run_search.py"), "export", str(run), "--output", model, "--pick", "best")
    assert _python(package, "-c", script, model).split() == ["MLP"]


def test_reader_finds_the_samples(package: Path, search_file: Path) -> None:
    script = """
import sys
from pathlib import Path
from nas.config.load import load_config
from nas.data.readers.base import load_reader
reader = load_reader(load_config(Path(sys.argv[1])).data)
for sample in reader.find_samples().splits["train"][:3]:
    print(sample.image, *sample.labels, reader.open_images().open(sample.image).size)
"""
    lines = _python(package, "-c", script, str(search_file)).splitlines()
    assert lines == ["000.png red (20, 20)", "001.png green (20, 20)", "002.png blue (20, 20)"]


def test_strategy_proposes_and_the_bounded_cost_excludes_the_largest(run: Path) -> None:
    rows = {int(row["trial"]): int(row["hidden"]) for row in _rows(run) if row["stage"] == "one_shot"}
    # First the default, for comparison, the smallest, and the largest that meets the bound; then the strategy's.
    assert [rows[trial] for trial in sorted(rows)] == [16, 2, 12, 4, 6, 8]


def test_metric_is_the_objective(run: Path) -> None:
    scores = {row["trial"]: float(row["score"]) for row in _rows(run) if row["stage"] == "full"}
    report = json.loads((run / "report.json").read_text())
    best = report["best"]
    assert best["objective"] == "cohen_kappa"
    # The linear classifier has no hidden units, which the search file bounds, and is not the answer.
    assert best["role"] == "best" and best["validation"]["cohen_kappa"] == max(scores.values())
    assert -1.0 <= best["test"]["cohen_kappa"] <= 1.0


def test_encoder_computes_what_its_model_computes(package: Path, search_file: Path) -> None:
    script = """
import sys
import torch
from transformers import MegatronBertModel
from nas.models.encoders.checkpoints import load_encoder
encoder = load_encoder(sys.argv[1], "text")
model = MegatronBertModel.from_pretrained(sys.argv[1], add_pooling_layer=False).eval()
ids = torch.tensor([[2, 5, 6, 3]])
with torch.no_grad():
    rows = encoder.finish(encoder.run(encoder.embed(ids), None, start=0, stop=encoder.num_layers))
    torch.testing.assert_close(rows, model(ids).last_hidden_state, rtol=1e-5, atol=1e-5)
print(type(encoder).__name__)
"""
    printed = _python(package, "-c", script, str(search_file.parent / "megatron"))
    assert printed.split()[-1] == "MegatronBertEncoder"


def test_storage_backend_keeps_the_study(run: Path, search_file: Path) -> None:
    assert (search_file.parent / "studies" / "journal.log").stat().st_size > 0
    assert not (run / "journal.log").exists()
