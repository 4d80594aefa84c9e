"""Parts of a data set: half of the classes, and a seeded number of samples of each class, which identify a search."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nas.common.errors import ConfigError, DataError
from nas.common.progress import ProgressOnly, build_reporter
from nas.config.diff import differences
from nas.config.load import load_config
from nas.data.dataset import read_dataset
from nas.data.samples import SPLITS, Dataset, RawDataset, RawSample
from nas.data.subsets import choose_shots, few_of_each_class, half_of_classes
from nas.run.prepare import prepare
from tests.support.folders import config_of, lines
from tests.support.project import Project

SIZES = {"apple": 30, "boat": 5, "cat": 12}
LABELS = [label for place in range(30) for label, size in SIZES.items() if place < size]


def manifest(folder: Path, *, split: bool = True) -> Path:
    rows = [
        f"{index}.png,text {index},{label}" + (f",{name}" if split else "")
        for name in (SPLITS if split else ("",))
        for index, label in enumerate(LABELS)
    ]
    lines(folder / "m.csv", "image,text,label" + (",split" if split else ""), *rows)
    return folder / "m.csv"


def read(path: Path, **values: Any) -> Dataset:
    config = config_of("manifest", path, allow_duplicates=True, **values)
    return read_dataset(config, SPLITS, compares_images=False)


def counts(data: Dataset, split: str) -> dict[str, int]:
    return {data.class_names[index]: count for index, count in Counter(data.splits[split].labels.tolist()).items()}


def test_train_has_that_many_samples_of_each_class_and_the_rest_is_whole(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    whole, data = read(path), read(path, shots=8)
    assert counts(data, "train") == {"apple": 8, "boat": 5, "cat": 8}
    for split in ("validation", "test"):
        assert data.splits[split].texts == whole.splits[split].texts and len(data.splits[split]) == 47
    assert data.class_names == whole.class_names
    assert set(data.splits["train"].places) < set(whole.splits["train"].places)
    texts = whole.splits["train"].texts
    assert list(data.splits["train"].texts) == [text for text in texts if text in set(data.splits["train"].texts)]
    (note,) = data.notes
    assert note == "data.shots: 8: 21 of 47 train samples are used; 1 of 3 classes have fewer: boat (5)"


def test_validation_is_limited_only_where_asked_for(tmp_path: Path) -> None:
    data = read(manifest(tmp_path), shots=2, validation_shots=4)
    assert counts(data, "train") == dict.fromkeys(SIZES, 2) and counts(data, "validation") == dict.fromkeys(SIZES, 4)
    assert data.notes[1] == "data.validation_shots: 4: 12 of 47 validation samples are used"


def test_shots_are_drawn_after_splits_are_held_out(tmp_path: Path) -> None:
    path, held_out = manifest(tmp_path, split=False), {"validation": 0.2, "test": 0.2}
    columns = {"split": None}
    whole, data = (read(path, held_out=held_out, columns=columns, **few) for few in ({}, {"shots": 3}))
    assert [data.splits[name].texts for name in SPLITS[1:]] == [whole.splits[name].texts for name in SPLITS[1:]]
    assert counts(data, "train") == dict.fromkeys(SIZES, 3)
    assert set(data.splits["train"].texts) < set(whole.splits["train"].texts)


def test_draw_is_seeded_nested_and_the_same_for_a_class_whatever_the_others_are() -> None:
    few, more, other = (few_of_each_class(LABELS, count, seed) for count, seed in ((4, 0), (9, 0), (4, 1)))
    assert few == sorted(few) == few_of_each_class(LABELS, 4, 0) and set(few) < set(more) and few != other
    apples = [place for place, label in enumerate(LABELS) if label == "apple"]
    alone = few_of_each_class(["apple"] * len(apples), 4, 0)
    assert [apples[place] for place in alone] == [place for place in few if LABELS[place] == "apple"]


def test_every_sample_is_drawn_equally_often() -> None:
    drawn = Counter(place for seed in range(600) for place in few_of_each_class(["a"] * 6, 2, seed))
    assert sum(drawn.values()) == 1200
    # Six standard deviations of 600 draws with a probability of 1/3.
    assert all(abs(count - 200) < 6 * (600 * 2 / 9) ** 0.5 for count in drawn.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": "several"}, r"data\.shots: not allowed; expected no such key where a sample may have several"),
        ({"labels": "several", "shots": None, "classes": "base"}, r"data\.classes: not allowed; expected no such key"),
        ({"shots": 0}, r"data\.shots: invalid value; expected a whole number of at least 1"),
    ],
)
def test_shots_of_nothing_or_of_several_labels_are_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("manifest", manifest(tmp_path), **{"shots": 4, **values})


def test_reader_that_finds_several_labels_is_refused(tmp_path: Path) -> None:
    raw = RawDataset("films", {"train": [RawSample("1.png", "x", ("a", "b"), "row 1")]}, has_several_labels=True)
    with pytest.raises(DataError, match=r"films: data\.shots: samples have several labels; expected null, got 4"):
        choose_shots(raw, config_of("manifest", manifest(tmp_path), shots=4))


def test_base_classes_are_the_first_half_by_name_with_the_middle_one() -> None:
    names = ["pie", "apple", "egg", "boat", "cat"]
    assert half_of_classes(names, "base") == ("apple", "boat", "cat")
    assert half_of_classes(names, "novel") == ("pie", "egg"), "in the order of the data set"
    assert half_of_classes(names, "all") == tuple(names)


def test_halves_divide_all_samples_of_all_splits(tmp_path: Path) -> None:
    texts = [
        f"{split} {label} {index}" for split in SPLITS for label in ("d", "b", "e", "a", "c") for index in range(3)
    ]
    rows = [f"{index}.png,{text},{text.split()[1]},{text.split()[0]}" for index, text in enumerate(texts)]
    lines(tmp_path / "m.csv", "image,text,label,split", *rows)
    halves = {half: read(tmp_path / "m.csv", classes=half) for half in ("base", "novel")}
    assert halves["base"].class_names == ("a", "b", "c") and halves["novel"].class_names == ("d", "e")
    for half, data in halves.items():
        assert data.notes == [f"data.classes: {half}: {len(data.class_names)} of 5 classes are used"]
        for split in SPLITS:
            samples = data.splits[split]
            assert [f"{split} {data.class_names[label]}" for label in samples.labels.tolist()] == [
                text.rpartition(" ")[0] for text in samples.texts
            ]
    for split in SPLITS:
        found = [text for data in halves.values() for text in data.splits[split].texts]
        assert sorted(found) == sorted(text for text in texts if text.startswith(split))
    few = read(tmp_path / "m.csv", classes="novel", shots=1)
    assert counts(few, "train") == {"d": 1, "e": 1}
    # A trained model has the order of the classes.
    config = config_of("manifest", tmp_path / "m.csv", classes="novel")
    tested = read_dataset(config, ("test",), class_names=("e", "d"), compares_images=False)
    assert tested.splits["test"].labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_halves_of_few_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.classes: too few classes for two halves; expected at least 4, got 3"):
        read(manifest(tmp_path), classes="base")


def test_only_the_drawn_samples_are_computed_and_they_identify_the_search(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stores, contents = [], []
    for name, changes in (("few", {"data.shots": 4}), ("other", {"data.shots": 4, "data.shots_seed": 1}), ("all", {})):
        config = load_config(project.write(f"{name}.yaml", **{"recipe.epochs": 4, **changes}))
        with build_reporter() as reporter:
            prepared = prepare(config, source=name, cache_directory=cache, reporter=ProgressOnly(reporter))
        stores.append(prepared.store)
        contents.append(prepared.contents.summary()["data"])
    assert [len(store.splits["train"]) for store in stores] == [12, 12, 36]
    assert {len(store.splits["validation"]) for store in stores} == {12}
    assert len(set(contents)) == len({store.directory for store in stores}) == 3
    assert stores[0].size_bytes < 0.7 * stores[2].size_bytes


def test_run_with_other_shots_is_another_run_and_older_runs_had_all_samples(project: Project) -> None:
    few, whole = (
        load_config(project.write(f"{name}.yaml", **shots)).as_dict()
        for name, shots in (("few", {"data.shots": 4}), ("all", {}))
    )
    assert differences(whole, few) == ["data.shots: null → 4"]
    older = {**whole, "data": {key: value for key, value in whole["data"].items() if "shots" not in key}}
    assert differences(older, whole) == [] and differences(older, few) == ["data.shots: null → 4"]
