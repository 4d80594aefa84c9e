"""The Python interface: samples in every form give the numbers of the command line."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import nas
from nas.cli import main
from nas.common.errors import ArgumentError, DataError
from nas.run.evaluation_report import report_json
from nas.run.exported_model import ExportedModel
from nas.run.loaded_model import LoadedModel
from tests.support.project import Project


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    found: LoadedModel = nas.load(str(model), device="cpu")
    return found


@pytest.fixture
def frame(project: Project) -> pd.DataFrame:
    with project.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return pd.DataFrame(rows, index=[f"r{index}" for index in range(60)])


def test_one_sample_two_lists_and_a_data_frame_give_the_same(
    loaded: LoadedModel, exported: ExportedModel, project: Project, frame: pd.DataFrame
) -> None:
    paths, texts = [str(project.images / name) for name in frame["image"]], list(frame["text"])
    expected = exported.probabilities(paths, texts).numpy()
    assert np.array_equal(loaded.predict_proba(paths, texts), expected)
    names = [loaded.class_names[index] for index in expected.argmax(axis=1)]
    assert loaded.predict(paths, texts) == names
    assert loaded.predict(paths[0], texts[0]) == loaded.predict(Path(paths[0]), texts[0]) == names[0]
    assert loaded.predict_proba(Image.open(paths[0]), texts[0]) == pytest.approx(expected[0], abs=1e-6)
    series = loaded.predict(frame, images=project.images)
    assert list(series) == names and list(series.index) == list(frame.index) and series.name == "prediction"
    table = loaded.predict_proba(frame, images=str(project.images))
    assert list(table.columns) == list(loaded.class_names) and list(table.index) == list(frame.index)
    assert np.array_equal(table.to_numpy(), expected)


def test_columns_may_have_other_names_and_cells_may_be_pictures(
    loaded: LoadedModel, project: Project, frame: pd.DataFrame, tmp_path: Path
) -> None:
    expected = list(loaded.predict(frame, images=project.images))
    other = frame.rename(columns={"image": "file", "text": "caption"})
    named = {"image_column": "file", "text_column": "caption"}
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in project.images.iterdir():
            file.write(path, path.name)
    assert list(loaded.predict(other, images=archive, **named)) == expected
    other["file"] = [Image.open(project.images / name) for name in frame["image"]]
    assert list(loaded.predict(other, **named)) == expected
    with pytest.raises(DataError, match=r"data frame: column 'text' is missing.*, got 'file, caption, .*image_column"):
        loaded.predict(other)


def test_evaluation_of_a_data_frame_is_that_of_the_command(
    loaded: LoadedModel, project: Project, model: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(model), "--data", str(project.manifest), "--images", str(project.images)]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = loaded.evaluate(project.manifest, images=project.images)
    assert json.loads(report_json(found)) == report
    of_frame = loaded.evaluate(frame[frame["split"] == "test"], images=project.images)
    assert of_frame.metrics == pytest.approx(found.metrics) and of_frame.num_samples == 12
    assert of_frame.details is not None and found.details is not None
    assert (of_frame.details.confusion == found.details.confusion).all()
    frame["kind"] = ["purple", *frame["label"][1:]]
    with pytest.raises(DataError, match="data frame, row 0: unknown label 'purple'"):
        loaded.evaluate(frame, images=project.images, label_column="kind")
    with pytest.raises(DataError, match="data frame, row 1: label is empty"):
        loaded.evaluate(frame.assign(label=["red", None, *frame["label"][2:]]), images=project.images)


def test_embeddings_are_what_the_classifiers_read(
    loaded: LoadedModel, exported: ExportedModel, project: Project, frame: pd.DataFrame
) -> None:
    found = torch.from_numpy(loaded.embed(frame, images=project.images))
    classifiers = [
        module
        for name, module in loaded.model.fusion.named_modules()
        if isinstance(module, nn.Linear) and "classifier" in name
    ]
    parts = found.split([module.in_features for module in classifiers], dim=1)
    with torch.no_grad():
        logits = sum(module(part) for module, part in zip(classifiers, parts, strict=True)) / len(classifiers)
    paths = [project.images / name for name in frame["image"]]
    assert torch.allclose(logits, exported.logits(paths, list(frame["text"])), atol=1e-5)
    one = loaded.embed(paths[0], frame["text"].iloc[0])
    assert one == pytest.approx(found[0].numpy(), abs=1e-5)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_arrays_bytes_and_missing_texts_are_samples(
    loaded: LoadedModel, project: Project, frame: pd.DataFrame, tmp_path: Path
) -> None:
    paths = [project.images / name for name in frame["image"]]
    expected = loaded.predict_proba(paths, list(frame["text"]))
    arrays = [np.asarray(Image.open(path)) for path in paths]
    for cells in (arrays, [path.read_bytes() for path in paths], [{"bytes": path.read_bytes()} for path in paths]):
        table = loaded.predict_proba(frame.assign(image=pd.Series(cells, index=frame.index)))
        assert np.array_equal(table.to_numpy(), expected)
    assert np.array_equal(loaded.predict_proba(np.stack(arrays), list(frame["text"])), expected)
    assert loaded.predict_proba(arrays[0], frame["text"].iloc[0]) == pytest.approx(expected[0], abs=1e-6)
    missing = loaded.predict_proba(frame.assign(text=[None, np.nan, pd.NA, *frame["text"][3:]]), images=project.images)
    assert np.array_equal(missing.to_numpy()[:3], loaded.predict_proba(paths, ["", "", "", *frame["text"][3:]])[:3])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(paths[0]).resize((30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    content = (tmp_path / "turned.jpg").read_bytes()
    assert (loaded.predict_proba(content, "x") == loaded.predict_proba(tmp_path / "turned.jpg", "x")).all()
    with pytest.raises(DataError, match=r"data frame, row 1: image: not a picture; expected .*, got None"):
        loaded.predict(frame.assign(image=[paths[0], None, *paths[2:]]))
    with pytest.raises(DataError, match=r"got an array of float64 \(4, 4, 3\)"):
        loaded.predict([np.zeros((4, 4, 3))], ["x"])


def test_unknown_precision_is_refused(model: Path) -> None:
    with pytest.raises(
        ArgumentError, match="precision: not allowed; expected one of auto, float32, bfloat16, got 'half'"
    ):
        nas.load(model, precision="half")


def test_pictures_and_texts_that_do_not_fit_are_named(loaded: LoadedModel, frame: pd.DataFrame) -> None:
    picture = Image.new("RGB", (20, 20))
    for data, texts in ((picture, None), (picture, ["cat"]), ([picture], "cat"), ([picture], None)):
        with pytest.raises(DataError, match="texts: do not fit the pictures; expected one picture and one text"):
            loaded.predict(data, texts)
    with pytest.raises(DataError, match="texts: not allowed with a data frame"):
        loaded.predict(frame, ["cat"])
    with pytest.raises(DataError, match="texts: wrong number; expected 1"):
        loaded.predict([picture], ["cat", "dog"])
