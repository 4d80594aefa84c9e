"""The tasks of the suite: no split leaks, no text reveals its label, and the same input gives the same bytes."""

import csv
import hashlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.suite import easy_vqa, grocery
from benchmarks.suite.clipart import keyword_samples, read_keywords
from benchmarks.suite.data_set import DataSet, Sample, closest_across_splits, write_data_set
from benchmarks.suite.packages import Package, wheel
from benchmarks.suite.tasks import TASKS
from nas.common.errors import DataError
from nas.config.load import load_config
from tests.support.paths import REPOSITORY

GROUPS = {"Fruit": ("Apple", "Kiwi", "Lemon"), "Vegetables": ("Carrot", "Leek")}
SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a PNG of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def vqa_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small wheel of the form of easy-vqa: 20 and 8 pictures, three questions about each."""
    path = tmp_path_factory.mktemp("wheels") / "easy_vqa-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 20), ("test", 8)):
            questions = [[f"question {n}?", "yes" if n else "red", p] for p in range(count) for n in range(3)]
            archive.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(questions))
            for number in range(count):
                archive.writestr(f"easy_vqa/data/{part}/images/{number}.png", picture(number + 100 * len(part)))
    return path


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small folder of the form of a clone: 2 photographs of a product in a split, of one product 3."""
    root = tmp_path_factory.mktemp("clone") / "dataset"
    products = [(group, product) for group, names in GROUPS.items() for product in names]
    rows = []
    for number, (group, product) in enumerate(products):
        place = f"iconic-images-and-descriptions/{group}/{product}/{product}_Description.txt"
        (root / place).parent.mkdir(parents=True)
        (root / place).write_text(f"{product} is  good.\n")
        rows.append([product, number, product, number, "", f"/{place}"])
    columns = ["Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)"]
    with (root / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [[*columns, "Iconic Image Path (str)", "Product Description Path (str)"], *rows],
        )
    for split, name in SPLIT_FILES.items():
        lines = []
        for number, (group, product) in enumerate(products):
            for photograph in range(3 if (split, product) == ("train", "Leek") else 2):
                image = f"{Path(name).stem}/{group}/{product}/{product}_{photograph}.jpg"
                (root / image).parent.mkdir(parents=True, exist_ok=True)
                (root / image).write_bytes(picture(1000 * len(split) + 10 * number + photograph, (150, 120)))
                lines.append(f"{image}, {number}, {number}")
        (root / name).write_text("\n".join(lines) + "\n")
    return root.parent


def splits_of_pictures(samples: list[Sample]) -> Counter[int]:
    """Return how many pictures are in how many splits."""
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.image, set()).add(sample.split)
    return Counter(map(len, splits.values()))


def test_questions_about_a_picture_are_in_one_split(vqa_wheel: Path) -> None:
    """Validation has a fifth of the training pictures; every question of the package occurs once."""
    samples = list(easy_vqa.split_by_picture(easy_vqa.read_questions(vqa_wheel)))
    assert Counter(sample.split for sample in samples) == {"train": 48, "validation": 12, "test": 24}
    assert splits_of_pictures(samples) == {1: 28}
    assert len({(sample.image, sample.text) for sample in samples}) == len(samples) == 84
    assert {sample.image.split("/")[0] for sample in samples if sample.split != "test"} == {"train"}


def test_bar_form_of_easy_vqa_has_two_questions_of_each_picture(
    vqa_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two are different ones, and more pictures than there are is an error."""
    samples = list(easy_vqa.split_by_picture(easy_vqa.read_questions(vqa_wheel)))
    monkeypatch.setattr(easy_vqa, "BAR_PICTURES", {"train": 10, "validation": 3, "test": 6})
    chosen = easy_vqa.bar_form(samples)
    assert Counter(sample.split for sample in chosen) == {"train": 20, "validation": 6, "test": 12}
    assert set(Counter(sample.image for sample in chosen).values()) == {2}
    assert len({(sample.image, sample.text) for sample in chosen}) == len(chosen)
    assert set(chosen) <= set(samples)
    monkeypatch.setattr(easy_vqa, "BAR_PICTURES", {"train": 17})
    with pytest.raises(DataError, match="expected 17 pictures with 2 questions, got 16"):
        easy_vqa.bar_form(samples)


def test_easy_vqa_is_built_byte_for_byte_from_the_checked_wheel(
    vqa_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds are equal, hold the package's pictures, and read back; a wheel of another content is refused."""
    with pytest.raises(DataError, match=r"another content; expected easy-vqa 1\.0 with SHA-256"):
        TASKS["easy-vqa"].build(tmp_path / "refused", vqa_wheel.parent, "whole")
    digest = hashlib.sha256(vqa_wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(easy_vqa, "EASY_VQA", Package("easy-vqa", "1.0", "easy_vqa-1.0-*.whl", digest))
    built = [TASKS["easy-vqa"].build(tmp_path / name, vqa_wheel.parent, "whole") for name in ("first", "second")]
    assert built[0].manifest.read_bytes() == built[1].manifest.read_bytes()
    assert built[0].images.read_bytes() == built[1].images.read_bytes()
    samples = built[0].read()
    assert len(samples) == 84
    with zipfile.ZipFile(built[0].images) as archive, zipfile.ZipFile(vqa_wheel) as package:
        for name in archive.namelist():
            assert archive.read(name) == package.read(f"easy_vqa/data/{name}")


def test_failed_download_names_the_package_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the package and the folder in which it may be put by hand."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package = Package("no-such-package", "9.9", "no_such_package-*.whl", "0" * 64)
    with pytest.raises(DataError, match=r"no-such-package 9\.9: not downloaded .* expected no_such_package-\*\.whl in"):
        wheel(package, tmp_path)


def test_every_photograph_has_its_own_description_and_another_of_its_group(clone: Path) -> None:
    """Within split and group, a description occurs as often in `no` as in `yes` pairs."""
    samples = grocery.pairs_of_clone(clone / "dataset")
    assert splits_of_pictures(samples) == {1: 30}  # one of 31 photographs is left out: an odd number
    counts = Counter((sample.split, sample.image.split("/")[1], sample.text, sample.labels) for sample in samples)
    for (split, group, text, labels), count in counts.items():
        assert counts[split, group, text, ("no",)] == counts[split, group, text, ("yes",)] == count, labels
        assert text.split()[0] in GROUPS[group]
    for yes, no in zip(samples[::2], samples[1::2], strict=True):
        assert (yes.image, yes.labels, no.image, no.labels) == (yes.image, ("yes",), yes.image, ("no",))
        product = yes.image.split("/")[2]
        assert yes.text == f"{product} is good."
        assert no.text != yes.text


def test_grocery_is_built_from_a_clone_and_from_its_pairs(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs become squares of 112 pixels; two builds are equal; a folder with pairs is taken as it is."""
    task = TASKS["grocery"]
    first, second = (task.build(tmp_path / name, clone, "whole") for name in ("first", "second"))
    assert first.images.read_bytes() == second.images.read_bytes()
    samples = first.read()
    assert samples == second.read()
    assert {opened.size for opened in first.pictures([samples[0].image, samples[-1].image])} == {(112, 112)}
    folder = tmp_path / "folder"
    folder.mkdir()
    first.manifest.rename(folder / "pairs.csv")
    first.images.rename(folder / "images.zip")
    assert task.build(tmp_path / "again", folder, "whole").read() == samples
    monkeypatch.setattr(grocery, "BAR_PHOTOGRAPHS", {"train": 6, "validation": 4, "test": 5})
    bar = task.build(tmp_path / "bar", folder, "bar").read()
    assert Counter(sample.split for sample in bar) == {"train": 12, "validation": 8, "test": 10}
    assert Counter(Counter(sample.image for sample in bar).values()) == {2: 15}
    assert set(bar) <= set(samples)


def test_grocery_without_a_source_is_an_error_that_says_what_is_needed(tmp_path: Path) -> None:
    """So is a folder of another form."""
    with pytest.raises(DataError, match="no --source; expected a clone of GroceryStoreDataset"):
        TASKS["grocery"].build(tmp_path, None, "whole")
    with pytest.raises(DataError, match=r"dataset: no such file or folder; expected a clone of GroceryStoreDataset"):
        TASKS["grocery"].build(tmp_path, tmp_path, "whole")


def test_products_with_more_than_half_of_the_photographs_are_refused(clone: Path, tmp_path: Path) -> None:
    """They could not all get another description."""
    (tmp_path / "dataset").mkdir()
    for entry in (clone / "dataset").iterdir():
        (tmp_path / "dataset" / entry.name).symlink_to(entry)
    (tmp_path / "dataset" / "val.txt").unlink()
    (tmp_path / "dataset" / "val.txt").write_text("val/Fruit/Kiwi/Kiwi_0.jpg, 1, 1\nval/Fruit/Kiwi/Kiwi_1.jpg, 1, 1\n")
    with pytest.raises(DataError, match="validation/Fruit: a product has more than half of the 2 photographs"):
        grocery.pairs_of_clone(tmp_path / "dataset")


def test_keywords_are_the_labels_and_no_text_has_their_words() -> None:
    """Plurals are merged; families are counted once; keywords that only titles have are not labels."""
    names = ("lion", "Two Flags", "the flag of Chad", "Boat boats", "zebra", "ant", "ant 2", "Flag")
    families = ("a", "b", "c", "d", "e", "f", "f", "g")
    rows = [
        {"image": f"{i}.png", "text": name, "split": "train", "family": family, "source": f"x/{i}.png"}
        for i, (name, family) in enumerate(zip(names, families, strict=True))
    ]
    rows[4]["split"] = "test"
    keywords = [
        {"animal"},
        {"flag", "africa"},
        {"flags", "africa"},
        {"boat"},
        {"animals"},
        {"insect"},
        {"insect"},
        set(),
    ]
    samples = keyword_samples(rows, keywords, labels=3)
    found = {sample.image: sample for sample in samples}
    # africa: families b and c; animal: a; insect: f once; boat and flag: only where the title has them
    assert {image: sample.labels for image, sample in found.items()} == {
        "0.png": ("animal",),
        "1.png": ("africa",),
        "2.png": ("africa",),
        "3.png": (),
        "4.png": ("animal",),
        "5.png": ("insect",),
        "6.png": ("insect",),
        "7.png": (),
    }
    titles = ("Animals of Africa 2", "insects")
    without = [row | {"text": text, "split": "test"} for row, text in zip(rows[:2], titles, strict=True)]
    *_, last = keyword_samples([*rows, *without], [*keywords, {"insect"}, set()], labels=3)
    assert (last.text, last.labels, last.split) == ("of 2", ("insect",), "test")  # and nothing is left of the other


def test_keywords_are_read_without_the_author(tmp_path: Path) -> None:
    """They lose accents and capitals; a drawing without a file has none."""
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "tea.svg").write_text(
        "<dc:title>Tea</dc:title><dc:creator><dc:title>Ann Lee</dc:title></dc:creator>"
        "<rdf:li>Café_Cup</rdf:li><rdf:li>ann lee</rdf:li><rdf:li>unsorted</rdf:li>"
    )
    rows = [{"source": "food/tea.png"}, {"source": "food/none.png"}]
    assert read_keywords(rows, tmp_path) == [{"cafe cup"}, set()]


def test_picture_in_two_splits_is_refused(tmp_path: Path) -> None:
    """Under one name or under two."""
    pictures = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(1)}
    kept = [Sample("a.png", "x", ("y",), "train"), Sample("b.png", "x", ("y",), "test")]
    assert write_data_set(tmp_path, kept, pictures).read() == kept
    for image in ("a.png", "c.png"):
        leak = Sample(image, "z", ("y",), "test")
        with pytest.raises(DataError, match=rf"{image}: the same picture as a\.png in train; expected it in one split"):
            write_data_set(tmp_path, [*kept, leak], pictures)


def test_closest_pictures_of_two_splits_are_compared(tmp_path: Path) -> None:
    """Pictures of one split may be alike; a constant difference of 3 is one of 3."""
    grey = [io.BytesIO() for _ in range(4)]
    for file, value in zip(grey, (100, 100, 200, 103), strict=True):
        Image.new("RGB", (32, 32), (value, value, value)).save(file, "PNG")
    kept = [Sample(f"{i}.png", "x", ("y",), split) for i, split in enumerate(("train", "train", "validation", "test"))]
    built = write_data_set(tmp_path, kept, {f"{i}.png": file.getvalue() for i, file in enumerate(grey)})
    assert closest_across_splits(built) == pytest.approx(3, abs=0.01)


def test_search_file_names_the_data_the_encoders_and_the_objective(tmp_path: Path) -> None:
    """With another file that has the settings, it is a valid one."""
    task = TASKS["clipart-keywords"]
    path = task.write_search_file(tmp_path, tmp_path, REPOSITORY / "search_spaces" / "demo.yaml")
    config = load_config(path)
    assert config.data.manifest == str(tmp_path / "manifest.csv")
    assert (config.name, config.data.labels, config.search.objective) == (
        "clipart-keywords",
        "several",
        "micro_f1_tuned",
    )
    assert Path(config.encoders.image).is_dir()
    assert TASKS["grocery"].search_file(tmp_path)["encoders"]["image"] == str(tmp_path / "dinov2-small")


def test_clip_art_task_is_the_demo(tmp_path: Path) -> None:
    """It has the samples of the demo with the columns of the suite."""
    built = TASKS["clipart"].build(tmp_path)
    assert Counter(sample.split for sample in built.read()) == {"train": 1804, "validation": 611, "test": 610}
    assert isinstance(built, DataSet)
