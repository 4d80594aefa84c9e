"""Ablations of families with class texts, of retrieval, with a pretraining, and in Ray workers."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nas.common.progress import LineReporter
from nas.config.overrides import Overrides
from nas.run.ablation.ablate import AblationOrder, ablate
from nas.run.ablation.rows import GeneRequest
from nas.run.executors import ExecutionOptions
from tests.support.project import Project

CLIP = {"encoders.image": "./clip", "encoders.text": "./clip", "recipe.epochs": 1}


def ablated(
    source: Path, directory: Path, options: ExecutionOptions, *genes: str, **order: Any
) -> list[dict[str, str]]:
    """Run an ablation with one seed, or resume it; return the rows of its table."""
    wanted = AblationOrder(**{"genes": [GeneRequest.parse(gene) for gene in genes], "seeds": 1, **order})
    with (directory.parent / f"{directory.name}.txt").open("a") as stream:
        ablate(source, directory, wanted, overrides=Overrides(), options=options, reporter=LineReporter(stream))
    with (directory / "ablation.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "genes", "values"),
    [
        ("coop", ("prompt_length=2", "initial_text", "sample_text"), ["2", "4", "template", "random", "none", "sum"]),
        (
            "maple",
            ("prompt_depth=1", "branches", "coupling"),
            ["1", "2", "coupled", "independent", "language", "vision", "per_layer", "shared"],
        ),
    ],
)
def test_families_with_class_texts_are_ablated_and_tested(
    project: Project,
    options: ExecutionOptions,
    tmp_path: Path,
    family: str,
    genes: tuple[str, ...],
    values: list[str],
) -> None:
    source = project.write(f"ablated_{family}.yaml", **{**CLIP, "family": family, "space": "auto"})
    rows = ablated(source, tmp_path / "run", options, *genes, evaluates_test=True)
    assert [row["value"] for row in rows] == values
    assert all(row["remark"] == "" and 0 <= float(row["test_accuracy_seed0"]) <= 1 for row in rows)
    by_value = {row["value"]: row for row in rows}
    if family == "maple":
        counts = {value: int(row["trainable_parameters"]) for value, row in by_value.items()}
        assert counts["language"] < counts["independent"] < counts["coupled"] and counts["shared"] < counts["coupled"]
    stored = (tmp_path / "run" / "trainings.json").read_bytes()
    assert ablated(source, tmp_path / "run", options, *genes, evaluates_test=True) == rows
    assert (tmp_path / "run" / "trainings.json").read_bytes() == stored


def retrieval_source(project: Project, folder: Path, **changes: Any) -> Path:
    with project.manifest.open(newline="") as file:
        given = list(csv.DictReader(file))
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "split"])
        writer.writerows([row["image"], f"{row['text']}", row["split"]] for row in given)
    data = {"task": "retrieval", "manifest": str(folder / "pairs.csv"), "images": str(project.images)}
    defaults = {"search.objective": "auto", "search.proxy_metric": "auto", "space": "auto", "recipe.epochs": 1}
    defaults |= {"recipe.classifier_start": "auto", "recipe.label_smoothing": "auto"}
    return project.write("ablated_pairs.yaml", **{"data": data, "family": "vse", **defaults, **changes})


@pytest.mark.long
def test_retrieval_is_ablated_and_tested(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    source = retrieval_source(project, tmp_path)
    rows = ablated(source, tmp_path / "run", options, "joint_width=2", seeds=2, evaluates_test=True)
    assert rows[0]["value"] == "2" and len(rows) == 2
    for row in rows:
        for seed in range(2):
            assert 0 < float(row[f"validation_mean_recall_seed{seed}"]) <= 1
            assert 0 < float(row[f"test_mean_recall_seed{seed}"]) <= 1
    assert "validation mean_recall" in (tmp_path / "run" / "ablation.txt").read_text()


@pytest.mark.long
def test_variants_are_pretrained_and_resume(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    changes = {"family": "albef", "space": {"fusion_layer": [1, 2]}, "recipe.epochs": 1}
    changes |= {"recipe.learning_rates.encoders": 1e-3, "search.readouts": "searched"}
    plain = project.write("ablated_plain.yaml", **changes)
    pretrained = project.write("ablated_albef.yaml", **changes, pretraining={"steps": 2, "queue_size": 8})
    found = {}
    for name, source in (("plain", plain), ("pretrained", pretrained)):
        first = ablated(source, tmp_path / name, options, "fusion_layer", trainings=1)
        assert sum(row["validation_cross_entropy_seed0"] != "" for row in first) == 1
        rows = ablated(source, tmp_path / name, options, "fusion_layer", evaluates_test=name == "pretrained")
        found[name] = [float(row["validation_cross_entropy_seed0"]) for row in rows]
        assert not list((tmp_path / name).rglob("pretraining/*")), "its checkpoint is deleted"
    assert len(found["plain"]) == 2 and all(a != b for a, b in zip(*found.values(), strict=True))
    settings = json.loads((tmp_path / "pretrained" / "ablation.json").read_text())
    assert "pretraining" in json.dumps(settings)


@pytest.mark.long
def test_workers_of_ray_train_the_same_variants(project: Project, options: ExecutionOptions, tmp_path: Path) -> None:
    source = project.write("ablated_ray.yaml", **{**CLIP, "family": "coop", "space": "auto"})
    workers = ExecutionOptions(worker_count=1, cache_directory=options.cache_directory)
    rows = [
        ablated(source, tmp_path / name, given, "prompt_length=2", "sample_text")
        for name, given in (("here", options), ("workers", workers))
    ]
    metrics = [[float(row["validation_cross_entropy_seed0"]) for row in found] for found in rows]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
