"""The registry of readers: built-in readers, and one that another package registers through an entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.common.errors import ExtensionError
from nas.common.registry import load_object
from nas.config.reader_registry import READERS, register_reader
from nas.data.readers.base import Reader
from tests.support.paths import REPOSITORY

TOY_READER = """
from nas.config.reader_registry import register_reader
from nas.data.images import open_images
from nas.data.readers.base import Reader
from nas.data.samples import RawDataset, RawSample


class ToyReader(Reader):
    def find_samples(self):
        samples = [RawSample(f"{label}.png", f"text of {label}", (label,), label) for label in ("cat", "dog")]
        return RawDataset(str(self.folder), {"train": samples})

    def open_images(self):
        return open_images(self.folder)


def register():
    register_reader("toy", "toy_reader:ToyReader", keys=("folder",))
"""

READ_TOY = """
import json, sys
from pathlib import Path

from nas.config.load import parse_data
from nas.data.dataset import read_dataset

values = {"reader": "toy", "folder": sys.argv[1]}
data = read_dataset(parse_data(values, source="test", base_directory=Path(sys.argv[1])), ("train",))
print(json.dumps([data.class_names, data.splits["train"].texts]))
"""


@pytest.mark.parametrize("name", ["manifest", "image_folder", "datasets", "food101", "mm_imdb", "snli_ve"])
def test_every_built_in_reader_can_be_loaded(name: str) -> None:
    assert issubclass(load_object(READERS[name].target), Reader)
    assert READERS[name].uses_manifest != ("folder" in READERS[name].keys)


def test_reader_name_cannot_be_registered_twice() -> None:
    assert "manifest" in READERS
    with pytest.raises(ExtensionError, match="data reader 'manifest': the name is taken"):
        register_reader("manifest", "some.module:Reader")


def test_reader_of_another_package_is_found_through_its_entry_point(tmp_path: Path) -> None:
    package, folder = tmp_path / "package", tmp_path / "data"
    information = package / "toy-1.0.dist-info"
    information.mkdir(parents=True)
    folder.mkdir()
    (package / "toy_reader.py").write_text(TOY_READER)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pmf_nas.readers]\ntoy = toy_reader:register\n")
    done = subprocess.run(
        [sys.executable, "-c", READ_TOY, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(package)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["cat", "dog"], ["text of cat", "text of dog"]]
