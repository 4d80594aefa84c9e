"""What a program gives becomes a search file, and data in memory become files of the run directory."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nas
from nas.common.errors import ArgumentError, BudgetError, ConfigError, DataError, StudyError
from nas.common.interrupt import Interrupted
from nas.config.load import load_arms, load_config
from nas.config.schema import Config
from nas.data.dataset import read_dataset
from nas.data.given_images import GivenImages
from nas.data.images import open_images
from nas.data.readers.base import load_reader
from nas.data.samples import RawDataset
from nas.run.api import search as search_module
from nas.run.api.messages import in_python
from nas.run.api.search import run_search
from nas.run.directory import CONFIG
from tests.run.conftest import FinishedRun
from tests.support.project import Project


class _Started(Exception):
    """Ends a search where it would start."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Config, RawDataset, Path]]:
    """Return a function that calls `run_search` and returns what it would have started."""

    def call(*arguments: Any, **options: Any) -> tuple[Config, RawDataset, Path]:
        found: list[Any] = []

        def start(source: Path, directory: Path, overrides: Any, *rest: Any) -> None:
            config = overrides.apply(load_arms(source)[0].config)
            found.append((config, load_reader(config.data).find_samples(), directory))
            raise _Started

        with monkeypatch.context() as patch:
            patch.setattr(search_module, "start", start)
            with pytest.raises(_Started):
                run_search(*arguments, progress=False, **options)
        result: tuple[Config, RawDataset, Path] = found[0]
        return result

    return call


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def frame(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.manifest)


def values(project: Project, **changes: Any) -> dict[str, Any]:
    """Return the search file of the small project as a dictionary without data."""
    found = project.values(**changes)
    del found["data"]
    found["encoders"] = {"image": str(project.root / "vit"), "text": str(project.root / "bert")}
    return found


def samples(raw: RawDataset) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(split, sample.text, sample.labels) for split in raw.splits for sample in raw.splits[split]]


def expected_samples(project: Project) -> list[tuple[str, str, tuple[str, ...]]]:
    return samples(load_reader(load_config(project.root / "search.yaml").data).find_samples())


Started = Callable[..., tuple[Config, RawDataset, Path]]


def test_path_dictionary_and_configuration_mean_the_same(
    project: Project, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    by_path, _, directory = started("search.yaml", budget=5)
    assert directory == Path("runs/little-1") and by_path.budget.trials == 5
    by_values, _, other = started(project.values(), budget="5")
    assert by_values == by_path and other == directory
    by_config, _, _ = started(nas.load_config("search.yaml"), budget=["5"])
    assert by_config == by_path
    timed, _, _ = started("search.yaml", budget=["2m", 7], seed=3, run_dir="elsewhere")
    assert (timed.budget.time_seconds, timed.budget.trials, timed.seed) == (120.0, 7, 3)


def test_data_frame_of_pictures_is_kept_whole(
    project: Project, started: Started, frame: pd.DataFrame, tmp_path: Path
) -> None:
    names = list(frame["image"])
    pictures = [Image.open(project.images / name).convert("RGB") for name in names]
    given = frame.assign(image=pictures).rename(columns={"image": "photo", "text": "caption", "label": "kind"})
    config, raw, directory = started(values(project), data=given, run_dir=tmp_path / "run")
    assert samples(raw) == expected_samples(project)
    assert (config.data.columns.image, config.data.columns.text, config.data.columns.label) == (
        "photo",
        "caption",
        "kind",
    )
    source, kept = open_images(Path(config.data.images or "")), directory / "input"
    for split in raw.splits:
        indices = frame.index[frame["split"] == split]
        for index, sample in zip(indices, raw.splits[split], strict=True):
            assert source.open(sample.image).tobytes() == pictures[index].tobytes()
    assert {path.name for path in kept.iterdir()} == {"table.jsonl", "images.zip", "input.json"}
    assert not list(directory.glob(".input*")) and not (directory / CONFIG).exists()


def test_data_without_configuration_get_columns_splits_and_encoders(
    project: Project, started: Started, frame: pd.DataFrame
) -> None:
    frame["image"] = [str(project.images / name) for name in frame["image"]]
    config, raw, directory = started(data=frame.drop(columns="split"), budget=3)
    assert directory == Path("runs/search-0") and config.name == "search"
    assert config.data.held_out.validation == config.data.held_out.test == 0.2
    assert config.data.columns.split is None and len(raw.splits["train"]) == 60
    assert Path(config.data.images or "") == project.images and not (directory / "input" / "images.zip").exists()
    assert config.encoders.image == "facebook/dinov2-small" or "/" in config.encoders.image
    assert config.encoders.text and "encoders.text" not in config.automatic


def test_data_frame_without_labels_is_searched_for_retrieval(
    project: Project, started: Started, frame: pd.DataFrame, tmp_path: Path
) -> None:
    pairs = frame.assign(image=[Image.open(project.images / name) for name in frame["image"]])
    config, raw, _ = started(data=pairs.drop(columns="label"), run_dir=tmp_path / "run")
    assert config.data.is_retrieval and config.family == "vse" and config.search.objective == "mean_recall"
    assert [len(rows) for rows in raw.splits.values()] == [36, 12, 12]
    assert read_dataset(config.data, ("validation",)).splits["validation"].labels.shape == (12, 2)


def test_task_of_the_configuration_decides_whether_labels_are_searched(
    project: Project, started: Started, frame: pd.DataFrame, tmp_path: Path
) -> None:
    given = {**values(project, space="auto"), "data": {"task": "retrieval"}, "family": "vse"}
    del given["search"], given["recipe"], given["supernet"]
    config, _, _ = started(given, data=frame, images=project.images, run_dir=tmp_path / "run")
    assert config.data.is_retrieval and config.data.columns.label is None
    assert json.loads(Path(config.data.manifest or "").read_text().splitlines()[0]).keys() == {"image", "text", "split"}
    by_column, _, _ = started(data=frame, label_column=None, images=project.images, run_dir=tmp_path / "other")
    assert by_column.data.is_retrieval and by_column.family == "vse"
    pairs = frame.drop(columns="label")
    with pytest.raises(ArgumentError, match="no column looks like one of labels"):
        run_search({**given, "data": {"task": "classification"}}, data=pairs, images=project.images, progress=False)
    with pytest.raises(ConfigError, match=r"data\.task: invalid value; expected classification with family: pmf"):
        run_search(values(project), data=pairs, images=project.images, run_dir=tmp_path / "third", progress=False)


def test_paths_are_found_in_a_folder_or_relative_to_images(
    project: Project, started: Started, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, raw, _ = started(values(project), data=frame, images=project.images, run_dir="one")
    assert Path(config.data.images or "") == project.images and samples(raw) == expected_samples(project)
    with pytest.raises(ArgumentError, match=r"^images: the images are not found; expected a folder or a ZIP file"):
        run_search(values(project), data=frame, run_dir="two", progress=False)
    monkeypatch.chdir(project.root)
    config, _, _ = started(values(project), data=frame, run_dir=Path("..") / "near")
    assert Path(config.data.images or "") == project.images


def test_columns_are_those_of_the_caller(project: Project, started: Started, frame: pd.DataFrame) -> None:
    frame["other"] = [str(project.images / name) for name in frame["image"]]
    named = {"image_column": "other", "split_column": None}
    config, raw, _ = started(values(project), data=frame, **named)
    assert config.data.columns.image == "other" and config.data.columns.split is None
    assert len(raw.splits["train"]) == 60
    with pytest.raises(ArgumentError, match=r"^label_column: no such column; expected one of 'image', .*, got 'kind'"):
        run_search(values(project), data=frame, label_column="kind", progress=False)


def test_pictures_in_every_form_are_what_a_prediction_reads(
    project: Project, started: Started, frame: pd.DataFrame, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(file, exif=exif)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "WEBP", lossless=True)
    cells: list[Any] = [
        Image.fromarray(colour),
        Image.fromarray(colour).convert("P"),
        Image.fromarray(generator.integers(0, 256, (20, 24, 4), dtype=np.uint8)),
        Image.fromarray(generator.integers(0, 4096, (20, 24), dtype=np.uint16)),
        Image.fromarray(colour).convert("CMYK"),
        colour,
        colour[:, :, 0],
        buffer.getvalue(),
        {"bytes": buffer.getvalue(), "path": None},
        Image.open(file),
        file,
        str(file),
    ]
    opened = [*cells[:5], Image.fromarray(colour), Image.fromarray(colour[:, :, 0]), *[Image.fromarray(colour)] * 2]
    wanted = [GivenImages({"x": picture}).open("x") for picture in opened]
    wanted += [open_images(tmp_path).open("turned.jpg")] * 3
    rows = frame[frame["split"] == "train"].head(len(cells)).assign(image=cells)
    whole = pd.concat([rows, frame[frame["split"] != "train"].assign(image=lambda _: [colour] * 24)])
    config, raw, _ = started(values(project), data=whole)
    source = open_images(Path(config.data.images or ""))
    for sample, picture in zip(raw.splits["train"], wanted, strict=True):
        assert source.open(sample.image).tobytes() == picture.tobytes(), sample
    with zipfile.ZipFile(config.data.images or "") as archive:
        assert len(archive.namelist()) == 7, "equal pictures are kept once, as the first and the fifth"
        assert archive.read(raw.splits["train"][-1].image) == file.read_bytes(), "files are kept as they are"


def test_cells_that_are_no_pictures_are_named(project: Project, frame: pd.DataFrame) -> None:
    good = np.zeros((4, 4, 3), dtype=np.uint8)
    for bad in (None, float("nan"), np.zeros((4, 4, 3)), np.zeros((4, 4, 7), dtype=np.uint8), "", 3):
        cells = [good, bad, *[good] * (len(frame) - 2)]
        with pytest.raises(DataError, match=r"^data frame, row 1: not a picture; expected a picture of PIL, an array"):
            run_search(values(project), data=frame.assign(image=pd.Series(cells, dtype=object)), progress=False)
    cells = [good, "absent.png", *[good] * (len(frame) - 2)]
    with pytest.raises(DataError, match=r"data frame, row 1: the image cannot be read: .*; expected an image file"):
        run_search(values(project), data=frame.assign(image=pd.Series(cells, dtype=object)), progress=False)
    assert not (Path("runs") / "little-1" / "input").exists()


def test_missing_cells_numbers_and_lists_become_json(project: Project, started: Started, frame: pd.DataFrame) -> None:
    frame["image"] = [str(project.images / name) for name in frame["image"]]
    odd = frame.assign(text=[None, np.nan, pd.NA, np.int64(7), *frame["text"][4:]])
    _, raw, _ = started(values(project), data=odd, run_dir="odd")
    found = [sample.text for split in raw.splits.values() for sample in split]
    assert found.count("") == 3 and found.count("7") == 1
    tags = [["red", "warm"], ["green"], ("blue", "cold")] * 20
    config, raw, _ = started(values(project), data=frame.assign(label=tags), run_dir="tags")
    assert config.data.labels == "several" and raw.splits["train"][0].labels == ("red", "warm")
    with pytest.raises(DataError, match=r"data frame, row 0: text cannot be used; expected text, .*\(object\)"):
        run_search(values(project), data=frame.assign(text=[object()] * 60), text_column="text", progress=False)


def test_data_sets_of_hugging_face_are_kept_with_names_of_classes(
    project: Project, started: Started, frame: pd.DataFrame
) -> None:
    names = ["blue", "green", "red"]
    features = datasets.Features(
        {"picture": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )

    def part(split: str) -> datasets.Dataset:
        rows = frame[frame["split"] == split]
        columns = {
            "picture": [str(project.images / name) for name in rows["image"]],
            "text": list(rows["text"]),
            "label": [names.index(label) for label in rows["label"]],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    whole = datasets.DatasetDict({split: part(split) for split in ("train", "validation", "test")})
    config, raw, _ = started(values(project), data=whole, run_dir="parts")
    assert samples(raw) == expected_samples(project) and config.data.columns.split == "split"
    _, raw, _ = started(values(project, **{"search.objective": "accuracy"}), data=whole["train"], run_dir="one")
    assert [len(raw.splits[split]) for split in raw.splits] == [36, 0, 0]
    whole.save_to_disk("saved")
    config, raw, _ = started(values(project), data="saved", image_column="picture", run_dir="saved-run")
    assert config.data.reader == "datasets" and samples(raw) == expected_samples(project)


def test_tables_and_folders_are_read_where_they_are(project: Project, started: Started) -> None:
    config, raw, directory = started(values(project), data=project.manifest)
    assert config.data.manifest == str(project.manifest) and not directory.exists()
    assert samples(raw) == expected_samples(project)
    config, _, _ = started(project.root / "search.yaml", data=project.manifest, images=project.images)
    assert config.data.max_text_tokens == 8, "the form of the data stays that of the file"


def test_other_things_are_refused(project: Project, frame: pd.DataFrame) -> None:
    quiet: dict[str, Any] = {"progress": False}
    with pytest.raises(ArgumentError, match=r"^data: missing; expected data, or a configuration"):
        run_search(**quiet)
    with pytest.raises(DataError, match=r"^data: not allowed; expected a pandas data frame, .*got 3 \(int\)"):
        run_search(data=3, **quiet)
    with pytest.raises(DataError, match=r"data frame: has no rows"):
        run_search(data=frame.head(0), **quiet)
    with pytest.raises(DataError, match=r"data frame: column 'text' is ambiguous"):
        run_search(data=frame.set_axis(["image", "text", "text", "split"], axis=1), **quiet)
    with pytest.raises(BudgetError, match=r"^budget: invalid value; expected a time"):
        run_search(project.root / "search.yaml", budget="soon", **quiet)
    with pytest.raises(ArgumentError, match=r"^workers: invalid value; expected None or a whole number"):
        run_search(project.root / "search.yaml", workers=-1, **quiet)
    with pytest.raises(TypeError, match=r"run_search\(\) got an unexpected keyword argument 'worker'; did you mean"):
        run_search(project.root / "search.yaml", worker=1, **quiet)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^config: 1 problem\n  - invalid value; expected a path, a dictionary"):
        run_search(3, **quiet)  # type: ignore[arg-type]


def test_mistakes_in_a_dictionary_are_found_before_data_are_kept(project: Project, frame: pd.DataFrame) -> None:
    frame["image"] = [np.zeros((4, 4, 3), dtype=np.uint8)] * 60
    wrong = values(project, **{"budget.trials": -1}) | {"sead": 3}
    with pytest.raises(ConfigError, match=r"^config: 2 problems\n(.*\n)*.*sead") as caught:
        run_search(wrong, data=frame, run_dir="run", progress=False)
    assert "budget.trials" in str(caught.value) and not Path("run").exists()


def test_run_on_other_data_is_refused(project: Project, frame: pd.DataFrame, copy: Path, finished: FinishedRun) -> None:
    frame["image"] = [str(project.images / name) for name in frame["image"]]
    with pytest.raises(
        StudyError, match=r"holds a search on other data; expected the data frame that it was .*run_dir"
    ):
        run_search(values(project), data=frame, run_dir=copy, progress=False)
    Path("mine/input").mkdir(parents=True)
    (Path("mine/input") / "thesis.txt").write_text("years of work")
    with pytest.raises(
        StudyError, match=r"input: is not of this program; expected an empty or new directory \(run_dir\)"
    ):
        run_search(values(project), data=frame, run_dir="mine", progress=False)
    assert (Path("mine/input") / "thesis.txt").exists()


def test_kept_data_of_a_start_that_failed_are_replaced(project: Project, started: Started, frame: pd.DataFrame) -> None:
    frame["image"] = [str(project.images / name) for name in frame["image"]]
    started(values(project), data=frame, run_dir="run")
    (Path("run") / ".input.0123").mkdir()
    _, raw, directory = started(values(project), data=frame.iloc[::-1], run_dir="run")
    assert raw.splits["train"][0].text == frame[frame["split"] == "train"]["text"].iloc[-1]
    lines = (directory / "input" / "table.jsonl").read_text().splitlines()
    assert len(lines) == 60 and json.loads(lines[0])["image"] == "059.png"
    assert not list(directory.glob(".input*"))


def test_interrupted_search_is_a_keyboard_interrupt(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(search_module, "start", start)
    with pytest.raises(KeyboardInterrupt, match=r"everything finished is saved; continue with nas.resume\('here'\)"):
        run_search(project.root / "search.yaml", run_dir="here", progress=False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("--memory-budget: invalid value", "memory_budget: invalid value"),
        ("no column (--label COLUMN)", "no column (label_column)"),
        ("`pmf-nas export RUN --trial N` exports (--run-dir)", "`pmf-nas export RUN --trial N` exports (run_dir)"),
        (
            "with: python run_search.py resume x --budget 3\n--seed",
            "with: python run_search.py resume x --budget 3\nseed",
        ),
        ("--image-encoder x: a - b -- c", "image_encoder x: a - b -- c"),
    ],
)
def test_options_in_messages_are_parameters(message: str, expected: str) -> None:
    assert in_python(message) == expected
