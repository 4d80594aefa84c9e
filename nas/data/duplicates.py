"""Find images with identical content under two paths, which a comparison of paths would miss."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from nas.data.images import ImageSource
from nas.data.samples import RawSample

FindDuplicates = Callable[[Iterable[RawSample]], Mapping[str, str]]
"""Returns the images of some samples that are copies of an earlier image → that image."""


def find_no_duplicates(samples: Iterable[RawSample]) -> Mapping[str, str]:
    """Return no duplicates, for callers that do not compare images."""
    del samples
    return {}


class DuplicateFinder:
    """Finds images whose files are identical byte for byte.

    Only images that share a text are compared, and of those only files of equal size are read: the purpose is to find
    samples that occur twice. Files that are empty or unreadable are reported elsewhere.

    Args:
        open_images: Opens the image source; called when the first two images have to be compared.
    """

    def __init__(self, open_images: Callable[[], ImageSource]) -> None:
        self._open = open_images
        self._images: ImageSource | None = None
        self._digests: dict[str, str | None] = {}

    def find(self, samples: Iterable[RawSample]) -> Mapping[str, str]:
        """Return the images that are copies of an earlier image → that image."""
        by_text: dict[str, dict[str, None]] = defaultdict(dict)
        for sample in samples:
            by_text[sample.text].setdefault(sample.image)
        originals: dict[str, str] = {}
        duplicates = {}
        for images in by_text.values():
            for image in self._of_equal_size(images) if len(images) > 1 else ():
                digest = self._digest(image)
                original = image if digest is None else originals.setdefault(digest, image)
                if original != image:
                    duplicates[image] = original
        return duplicates

    def _of_equal_size(self, images: Iterable[str]) -> Iterable[str]:
        """Return the images whose file is as large as that of another image."""
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
