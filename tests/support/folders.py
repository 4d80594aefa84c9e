"""Little data sets in the forms in which the large ones are distributed."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nas.config.load import parse_data
from nas.config.schema import DataConfig


def config_of(reader: str, folder: Path, **values: Any) -> DataConfig:
    """The section `data` of a search file."""
    place = "manifest" if reader == "manifest" else "folder"
    given = {"reader": reader, place: str(folder), "max_text_tokens": 8, **values}
    return parse_data(given, source="test", base_directory=folder.parent)


def picture(path: Path) -> None:
    """A file that can be decoded, of a colour that its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), tuple(zlib.crc32(path.name.encode()).to_bytes(4)[:3])).save(path)


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def food101(root: Path, titles: Mapping[str, Sequence[str]] | None = None) -> None:
    """Three dishes, four pictures of each in train and one in test, with titles and pages for all.

    Args:
        root: Where.
        titles: Rows of `texts/<split>_titles.csv` in place of right ones.
    """
    for split, count in (("train", 4), ("test", 1)):
        rows = []
        for dish in ("apple_pie", "churros", "pho"):
            for number in range(count):
                name = f"{dish}_{split}{number}"
                picture(root / "images" / split / dish / f"{name}.jpg")
                lines(root / "texts_txt" / dish / f"{name}.txt", f"all about {dish}", "", f"page {number}")
                rows.append(f'{name}.jpg,"{dish}, ""the best"" {number}",{dish}')
        lines(root / "texts" / f"{split}_titles.csv", *(titles or {}).get(split, rows))


def film(root: Path, number: str, **values: Any) -> None:
    """One film of MM-IMDb."""
    facts = {"plot": ["short", f"a much longer plot of {number}"], "genres": ["Drama"], "title": "x", **values}
    lines(root / "dataset" / f"{number}.json", json.dumps(facts))
    picture(root / "dataset" / f"{number}.jpeg")


def mm_imdb(root: Path) -> None:
    """Four films to train with, one in each other split."""
    genres = [["Drama"], ["Drama", "Comedy"], ["War", "Film-Noir"], ["Short"], ["Drama", "War"], ["Comedy"]]
    for number, of_film in enumerate(genres):
        film(root, f"000{number}", genres=of_film)
    splits = {"train": ["0000", "0001", "0002", "0003"], "dev": ["0004"], "test": ["0005"]}
    lines(root / "split.json", json.dumps(splits))


def sentence(image: str, text: str = "it is so", label: str = "entailment", **more: Any) -> str:
    """One line of SNLI-VE."""
    return json.dumps({"Flickr30K_ID": image, "sentence1": "", "sentence2": text, "gold_label": label, **more})


def snli_ve(root: Path) -> None:
    """Two pictures with three sentences each to train with, one of each in the other splits."""
    labels = ("entailment", "neutral", "contradiction")
    for split, images in (("train", ("11", "12")), ("dev", ("13",)), ("test", ("14",))):
        rows = [sentence(image, f"{label} of {image}", label) for image in images for label in labels]
        lines(root / f"snli_ve_{split}.jsonl", *rows)
        for image in images:
            picture(root / "flickr30k_images" / f"{image}.jpg")
