"""Find images with identical content under two paths, which a comparison of paths would miss."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from nas.data.images import ImageSource
from nas.data.samples import RawSample

_Group = dict[str, int]
"""Images, and the position of a sample of each."""

FindDuplicates = Callable[[Iterable[RawSample]], Mapping[str, str]]
"""Returns the images of some samples that are copies of an earlier image → that image."""


def find_no_duplicates(samples: Iterable[RawSample]) -> Mapping[str, str]:
    """Return no duplicates, for callers that do not compare images."""
    del samples
    return {}


class DuplicateFinder:
    """Finds images whose files are identical byte for byte.

    Only images that share a text are compared, unless all are, and of those only files of equal size are read: the
    purpose is to find samples that occur twice. Files that are empty or unreadable are reported elsewhere.

    Args:
        open_images: Opens the image source; called when the first two images have to be compared.
        compares_all: Whether images are compared whatever their texts.
    """

    def __init__(self, open_images: Callable[[], ImageSource], *, compares_all: bool = False) -> None:
        self._open = open_images
        self._compares_all = compares_all
        self._images: ImageSource | None = None
        self._sizes: dict[str, int | None] = {}
        self._digests: dict[str, str | None] = {}

    def find(self, samples: Iterable[RawSample]) -> Mapping[str, str]:
        """Return the images that are copies of an earlier image → that image."""
        listed = list(samples)
        groups = [_all_images(listed)] if self._compares_all else _images_with_equal_texts(listed)
        # In the order of the samples, since files that hold many images are fast only to read forwards.
        for image in _in_order(groups):
            if image not in self._sizes:
                self._sizes[image] = self._source().size(image)
        groups = [alike for group in groups for alike in self._of_equal_size(group)]
        originals: dict[str, str] = {}
        duplicates = {}
        for image in _in_order(groups):
            if image not in self._digests:
                self._digests[image] = self._source().digest(image)
            digest = self._digests[image]
            original = image if digest is None else originals.setdefault(digest, image)
            if original != image:
                duplicates[image] = original
        return duplicates

    def _of_equal_size(self, group: _Group) -> Iterable[_Group]:
        """Return the images of every size that several files have."""
        by_size: dict[int, _Group] = defaultdict(dict)
        for image, position in group.items():
            if size := self._sizes[image]:
                by_size[size][image] = position
        return [alike for alike in by_size.values() if len(alike) > 1]

    def _source(self) -> ImageSource:
        if self._images is None:
            self._images = self._open()
        return self._images


def _images_with_equal_texts(samples: Sequence[RawSample]) -> list[_Group]:
    """Return the images of every text that has several."""
    first: dict[str, int] = {}  # most texts have one image only
    groups: dict[str, _Group] = {}
    for position, sample in enumerate(samples):
        earlier = first.setdefault(sample.text, position)
        if samples[earlier].image != sample.image:
            groups.setdefault(sample.text, {samples[earlier].image: earlier}).setdefault(sample.image, position)
    return list(groups.values())


def _all_images(samples: Sequence[RawSample]) -> _Group:
    """Return every image with the position of its first sample."""
    positions: _Group = {}
    for position, sample in enumerate(samples):
        positions.setdefault(sample.image, position)
    return positions


def _in_order(groups: Iterable[_Group]) -> list[str]:
    """Return the images of all groups in the order of the samples."""
    positions: dict[str, int] = {}
    for group in groups:
        for image, position in group.items():
            positions[image] = min(position, positions.get(image, position))
    return sorted(positions, key=positions.__getitem__)
