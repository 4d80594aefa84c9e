"""Copies of images: one picture under two paths, which a comparison of paths would not find."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from nas.data.dataset import Sample
from nas.data.images import ImageSource

CopiesAmong = Callable[[Iterable[Sample]], Mapping[str, str]]
"""Images among those of some samples that are copies of an earlier one → that one."""


def no_copies(samples: Iterable[Sample]) -> Mapping[str, str]:
    """Where images are not compared."""
    del samples
    return {}


class Copies:
    """Finds images whose files are the same to the last byte.

    Only images that stand beside one text are compared, and only those read whose files are of one size: what is looked
    for is a sample that is there twice. Files that are empty or cannot be read are no images, and named elsewhere.

    Args:
        open_images: Opens where the images lie; called when two have to be compared.
    """

    def __init__(self, open_images: Callable[[], ImageSource]) -> None:
        self._open = open_images
        self._images: ImageSource | None = None
        self._digests: dict[str, str | None] = {}

    def among(self, samples: Iterable[Sample]) -> Mapping[str, str]:
        """Images that are copies of an earlier one → that one."""
        by_text: dict[str, dict[str, None]] = defaultdict(dict)
        for sample in samples:
            by_text[sample.text].setdefault(sample.image)
        originals: dict[str, str] = {}
        found = {}
        for images in by_text.values():
            for image in self._of_one_size(images) if len(images) > 1 else ():
                digest = self._digest(image)
                original = image if digest is None else originals.setdefault(digest, image)
                if original != image:
                    found[image] = original
        return found

    def _of_one_size(self, images: Iterable[str]) -> Iterable[str]:
        """Those that are as large as another one."""
        by_size: dict[int, list[str]] = defaultdict(list)
        for image in images:
            size = self._source().size(image)
            if size:
                by_size[size].append(image)
        return [image for group in by_size.values() if len(group) > 1 for image in group]

    def _digest(self, image: str) -> str | None:
        if image not in self._digests:
            self._digests[image] = self._source().digest(image)
        return self._digests[image]

    def _source(self) -> ImageSource:
        if self._images is None:
            self._images = self._open()
        return self._images
