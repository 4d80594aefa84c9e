"""The data set of a project in the layouts of other readers."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAYOUTS = ("parquet", "image_folder", "mm_imdb", "snli_ve")
Row = Mapping[str, str]


def write_layout(root: Path, layout: str) -> tuple[Mapping[str, Any], Sequence[Path]]:
    """Write the data set of a project in another layout.

    Args:
        root: The folder of the project.
        layout: One of `LAYOUTS`.

    Returns:
        The section `data` of a search file, and the files that describe the samples.
    """
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder = root / layout
    folder.mkdir()
    write = {"parquet": _parquet, "image_folder": _image_folder, "mm_imdb": _mm_imdb, "snli_ve": _snli_ve}[layout]
    described = write(folder, root / "images", rows)
    if layout == "parquet":
        return {"manifest": "parquet/data.parquet", "max_text_tokens": 8}, described
    return {"reader": layout, "folder": layout, "max_text_tokens": 8}, described


def _parquet(folder: Path, images: Path, rows: Sequence[Row]) -> list[Path]:
    import pyarrow as pa  # noqa: PLC0415 (not needed by most cases)
    from pyarrow import parquet  # noqa: PLC0415

    pictures = [{"bytes": (images / row["image"]).read_bytes(), "path": row["image"]} for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("text", "label", "split")}
    parquet.write_table(pa.table({"image": pictures, **columns}), folder / "data.parquet")
    return [folder / "data.parquet"]


def _image_folder(folder: Path, images: Path, rows: Sequence[Row]) -> list[Path]:
    described = []
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        described.append(folder / split / "metadata.csv")
        with described[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "text", "label"])
            for row in rows:
                if row["split"] == split:
                    shutil.copyfile(images / row["image"], folder / split / row["image"])
                    writer.writerow([row["image"], row["text"], row["label"]])
    return described


def _mm_imdb(folder: Path, images: Path, rows: Sequence[Row]) -> list[Path]:
    (folder / "dataset").mkdir()
    described, names = [folder / "split.json"], {"train": "train", "validation": "dev", "test": "test"}
    splits: dict[str, list[str]] = {name: [] for name in names.values()}
    for number, row in enumerate(rows):
        splits[names[row["split"]]].append(f"{number:07}")
        film = {"plot": ["short", row["text"]], "genres": ["Drama"] if row["label"] == "red" else ["Crime", "War"]}
        described.append(folder / "dataset" / f"{number:07}.json")
        described[-1].write_text(json.dumps(film), encoding="utf-8")
        shutil.copyfile(images / row["image"], folder / "dataset" / f"{number:07}.jpeg")
    described[0].write_text(json.dumps(splits), encoding="utf-8")
    return described


def _snli_ve(folder: Path, images: Path, rows: Sequence[Row]) -> list[Path]:
    (folder / "flickr30k_images").mkdir()
    described = []
    for split, name in {"train": "train", "validation": "dev", "test": "test"}.items():
        described.append(folder / f"snli_ve_{name}.jsonl")
        lines = []
        for number, row in enumerate(rows):
            if row["split"] == split:
                shutil.copyfile(images / row["image"], folder / "flickr30k_images" / f"{number}.jpg")
                label = ("entailment", "neutral", "contradiction")[number % 3]
                lines.append({"Flickr30K_ID": f"{number}.jpg", "sentence2": row["text"], "gold_label": label})
        described[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return described
