"""Copies of images under other paths are found, reading as few files as possible, forwards."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from nas.data.decoding import OpenFile
from nas.data.duplicates import DuplicateFinder
from nas.data.images import ImageSource
from nas.data.samples import RawSample


class RecordingImages(ImageSource):
    """Image source that records what is read."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        super().__init__(Path("images"))
        self._contents = contents
        self.measured: list[str] = []
        self.read: list[str] = []

    def fingerprint(self, name: str) -> str | None:
        del name
        return None

    def size(self, name: str) -> int | None:
        self.measured.append(name)
        return len(self._contents[name])

    def _opener(self, name: str) -> OpenFile:
        raise NotImplementedError(name)

    def _chunks(self, name: str) -> Iterable[bytes]:
        self.read.append(name)
        return (self._contents[name],)


def test_images_with_a_shared_text_are_compared_in_the_order_of_the_samples() -> None:
    contents = {"0": b"same", "1": b"same", "2": b"same", "3": b"longer", "4": b"same", "5": b"else"}
    texts = {"0": "red", "1": "blue", "2": "blue", "3": "red", "4": "red", "5": "green"}
    images = RecordingImages(contents)
    finder = DuplicateFinder(lambda: images)
    samples = [RawSample(image, texts[image], ("a",), "row 1") for image in contents]
    assert finder.find(iter(samples)) == {"1": "0", "2": "0", "4": "0"}
    assert images.measured == ["0", "1", "2", "3", "4"] and images.read == ["0", "1", "2", "4"]
    assert finder.find(samples[1:3]) == {"2": "1"}
    assert len(images.measured) == 5 and len(images.read) == 4, "nothing is read again"
