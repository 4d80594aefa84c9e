"""A search for retrieval from its data to the exported model."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

import nas
from nas.cli import main
from nas.common.errors import DataError, ExportError
from nas.run.executors import ExecutionOptions
from nas.run.finalize import REPORT
from tests.support.project import Project
from tests.support.runs import counts_of, results_of, resume_search, run_search

RECALLS = [f"{direction}_recall_at_{count}" for count in (1, 5, 10) for direction in ("image_to_text", "text_to_image")]


@dataclass(frozen=True)
class RetrievalRun:
    """A finished search."""

    directory: Path
    output: str
    manifest: Path


@pytest.fixture(scope="module")
def source(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search file for pairs whose text names the colour of the picture and some word."""
    folder = tmp_path_factory.mktemp("retrieval")
    with project.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    words = {"red": "apple", "green": "boat", "blue": "cat"}
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "split"])
        writer.writerows([row["image"], f"{words[row['label']]} {row['text']}", row["split"]] for row in rows)
    return project.write(
        "retrieval.yaml",
        **{
            "data": {
                "task": "retrieval",
                "manifest": str(folder / "pairs.csv"),
                "images": str(project.images),
                "max_text_tokens": 8,
            },
            "family": "vse",
            "space": {"joint_width": [2, 4, 6, 8]},
            "search.objective": "mean_recall",
            "search.proxy_metric": "mean_reciprocal_rank",
            "search.rerun_seeds": 1,
            "recipe.classifier_start": "random",
            "recipe.label_smoothing": 0.0,
            "search.finalists": 1,
            "budget.trials": 3,
        },
    )


@pytest.fixture(scope="module")
def searched(source: Path, options: ExecutionOptions, tmp_path_factory: pytest.TempPathFactory) -> RetrievalRun:
    directory = tmp_path_factory.mktemp("run") / "run"
    output = run_search(source, directory, options)
    return RetrievalRun(directory, output, source.parent)


@pytest.mark.slow
def test_search_races_exports_and_reports_recalls(searched: RetrievalRun, options: ExecutionOptions) -> None:
    assert counts_of(searched.directory)[0] == 3
    assert "Retrieval: the linear and the bilinear classifier and the ensemble are left out" in searched.output
    assert "no ensemble: embeddings of several models cannot be averaged" in searched.output
    assert "train: 36 pairs of 36 different pictures" in searched.output
    assert "Data: 36 train, 12 validation pairs. Encoder outputs" in searched.output
    entry = json.loads((searched.directory / REPORT).read_text())["best"]
    for side in ("validation", "test"):
        assert entry[side]["mean_recall"] == pytest.approx(np.mean([entry[side][name] for name in RECALLS]))
    header = (searched.directory / "results.csv").read_text().splitlines()[0].split(",")
    assert "mean_recall" in header and "accuracy" not in header
    page = (searched.directory / "report.html").read_text()
    assert "Recalls of the answer" in page and "Confusion matrix" not in page
    before = results_of(searched.directory)
    assert "evaluating" not in resume_search(searched.directory, options)
    assert results_of(searched.directory) == before


@pytest.mark.slow
def test_exported_model_gives_the_recalls_of_the_report(
    searched: RetrievalRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = searched.directory / "best"
    entry = json.loads((searched.directory / REPORT).read_text())["best"]
    config = json.loads((folder / "config.json").read_text())
    assert config["task"] == "retrieval"
    found = nas.load(folder).evaluate(_data(searched), images=_images(searched))
    assert found.metrics == pytest.approx(entry["test"]) and found.details is None
    assert main(["evaluate", str(folder), "--data", str(_data(searched)), "--images", str(_images(searched))]) == 0
    assert f"mean_recall: {entry['test']['mean_recall']:.6f}" in capsys.readouterr().out


@pytest.mark.slow
def test_data_frame_of_pairs_has_the_recalls_of_its_table(searched: RetrievalRun) -> None:
    loaded, frame = nas.load(searched.directory / "best"), pd.read_csv(_data(searched))
    given = frame[frame["split"] == "test"]
    expected = loaded.evaluate(_data(searched), images=_images(searched))
    assert loaded.evaluate(given, images=_images(searched)).metrics == pytest.approx(expected.metrics)
    pictures = [Image.open(_images(searched) / name) for name in given["image"]]
    again = pd.concat([given.assign(image=pictures), given.assign(image=pictures)]).rename(columns={"text": "words"})
    found = loaded.evaluate(again, text_column="words")
    assert found.metrics == pytest.approx(expected.metrics) and found.num_samples == 24, "equal pictures are one"
    with pytest.raises(DataError, match=r"data frame: retrieval has nothing to tell apart"):
        loaded.evaluate(given[:1], images=_images(searched))


@pytest.mark.slow
def test_embeddings_of_either_side_are_those_of_pairs(searched: RetrievalRun) -> None:
    loaded = nas.load(searched.directory / "best")
    pictures, texts = (
        [_images(searched) / f"{index:03}.png" for index in range(3)],
        ["apple dog", "boat", "cat fox egg"],
    )
    images, words = loaded.embed_images(pictures), loaded.embed_texts(texts)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(loaded.embed(pictures, texts), np.concatenate([images, words], axis=1), atol=1e-5)
    model = nas.FusionForRetrieval.from_pretrained(searched.directory / "best")
    pixels = torch.randn(2, 3, 16, 16)
    output = model.eval()(pixel_values=pixels)
    assert output.text_embeds is None and output.image_embeds.shape == (2, images.shape[1])
    with pytest.raises(ValueError, match="expected images, texts or both"):
        model()
    with pytest.raises(ValueError, match="FusionForClassification: wrong model; expected one for classification"):
        nas.FusionForClassification.from_pretrained(searched.directory / "best")


@pytest.mark.slow
def test_table_is_ranked_in_both_directions(searched: RetrievalRun, tmp_path: Path) -> None:
    folder, images = searched.directory / "best", _images(searched)
    words = ["--data", str(_data(searched)), "--images", str(images), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(folder), *words, "--top", "2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with _data(searched).open(newline="") as file:
        given = list(csv.DictReader(file))
    loaded, names = nas.load(folder), sorted({row["image"] for row in given})
    pictures, texts = loaded.embed_images([images / name for name in names]), loaded.embed_texts([given[7]["text"]])
    scores = (pictures @ texts[0]).tolist()
    assert [rows[7]["image_1_similarity"], rows[7]["image_2_similarity"]] == pytest.approx(
        sorted(scores, reverse=True)[:2], abs=1e-5
    )
    assert len(rows) == len(given) == 60 and list(rows[0])[1:5] == [
        *("text_1", "text_1_similarity", "text_2", "text_2_similarity")
    ]
    assert scores[names.index(rows[7]["image_1"])] == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.slow
def test_one_pair_has_a_similarity(searched: RetrievalRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = searched.directory / "best", _images(searched) / "000.png"
    assert main(["predict", str(folder), "--image", str(picture), "--text", "apple", "--json"]) == 0
    image, text = nas.load(folder).embed_images([picture])[0], nas.load(folder).embed_texts(["apple"])[0]
    assert json.loads(capsys.readouterr().out) == {"similarity": pytest.approx(float(image @ text), abs=1e-5)}


@pytest.mark.slow
def test_what_needs_classes_is_refused(searched: RetrievalRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = searched.directory / "best", _images(searched) / "000.png"
    with pytest.raises(ExportError, match="the model is one for retrieval, without classes; expected a classifier"):
        nas.load(folder).predict(picture, "apple")
    arguments = ["predict", str(folder), "--data", str(_data(searched)), "--output", str(folder.parent / "no.csv")]
    assert main([*arguments, "--images", str(_images(searched)), "--probabilities"]) == 2
    assert "--probabilities: the model is one for retrieval, without classes" in capsys.readouterr().err
    assert main(["export", str(searched.directory), "--output", str(folder.parent / "onnx"), "--format", "onnx"]) == 2
    assert "holds a model for retrieval; expected a classifier for onnx" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"data\.task is classification; expected retrieval"):
        nas.load(folder).evaluate(_images(searched).parent / "manifest.csv", reader="snli_ve")


@pytest.mark.long
def test_clip_without_training_is_a_baseline(
    source: Path, project: Project, options: ExecutionOptions, tmp_path: Path
) -> None:
    pairs = nas.load_config(source).data.manifest
    data = {"task": "retrieval", "manifest": pairs, "images": str(project.images), "max_text_tokens": 8}
    changes: dict[str, Any] = {
        "encoders.image": "./clip",
        "encoders.text": "./clip",
        "data": data,
        "family": "clip_zero_shot",
    }
    changes |= {"space": "auto", "search.objective": "auto", "search.proxy_metric": "auto"}
    changes |= {"recipe.classifier_start": "auto", "recipe.label_smoothing": "auto", "budget.trials": 1}
    run_search(project.write("zero_shot.yaml", **changes), tmp_path / "run", options)
    entry = json.loads((tmp_path / "run" / REPORT).read_text())["best"]
    assert entry["architecture"] == {"family": "clip_zero_shot", "sample_text": "sum"}
    loaded = nas.load(tmp_path / "run" / "best")
    found = loaded.evaluate(pairs, images=project.images)
    assert found.metrics == pytest.approx(entry["test"]) and entry["trainable_parameters"] == 0
    pictures, texts = [project.images / f"{index:03}.png" for index in range(3)], ["apple", "boat dog", "cat"]
    images, words = loaded.embed_images(pictures), loaded.embed_texts(texts)
    ids, mask = loaded.preprocessor.tokenize(texts)
    clip = CLIPModel.from_pretrained(project.root / "clip").eval()
    pixels = loaded.preprocessor.pixel_values([Image.open(path).convert("RGB") for path in pictures])
    with torch.inference_mode():
        expected = clip(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    np.testing.assert_allclose(images, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(words, expected.text_embeds.numpy(), atol=1e-5)


def _data(run: RetrievalRun) -> Path:
    values = nas.load_config(run.manifest / "retrieval.yaml")
    return Path(values.data.manifest or "")


def _images(run: RetrievalRun) -> Path:
    return run.manifest / "images"
