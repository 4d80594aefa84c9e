"""Read a data set with the reader that the search file names, check it as a whole, and keep the requested splits."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nas.common.boundary import shown
from nas.common.errors import DataError
from nas.config.data_schema import ColumnsConfig, DataConfig
from nas.data.characters import check_characters
from nas.data.duplicates import DuplicateFinder, FindDuplicates, find_no_duplicates
from nas.data.image_names import has_one_spelling
from nas.data.images import ImageSource
from nas.data.labels import composed, nearest_class, with_composed_labels
from nas.data.pairs import check_negatives, pair_items
from nas.data.readers.base import Reader, load_reader
from nas.data.samples import Dataset, Labels, RawDataset, RawSample, Samples, shortened_list
from nas.data.splits import hold_out_missing_splits
from nas.data.subsets import choose_classes, choose_shots


def read_dataset(
    config: DataConfig,
    splits: Collection[str],
    class_names: tuple[str, ...] | None = None,
    *,
    compares_images: bool = True,
) -> Dataset:
    """Read and check a whole data set and return the requested splits.

    Args:
        config: The `data` section of the search file.
        splits: The requested splits: any of train, validation and test.
        class_names: The classes in order, if a trained model fixes them; otherwise those of the data set.
        compares_images: Whether to compare the content of images as well, to find a sample under two paths; requires
            the images.

    Raises:
        DataError: If the data set cannot be read, a requested split is empty, a label is unknown, or a sample is in two
            splits; names the file and the row. For retrieval, if there are labels, or nothing to tell apart.
    """
    reader = load_reader(config)
    raw = with_composed_labels(reader.find_samples())
    _check_split_column(config, reader)
    _check_task(config, reader)
    _check_characters(raw)
    if compares_images:
        raw = _with_own_names(raw, reader)
    find_duplicates: FindDuplicates = find_no_duplicates
    if compares_images:
        find_duplicates = DuplicateFinder(reader.open_images, compares_all=config.is_retrieval).find
    all_splits = hold_out_missing_splits(raw.source, raw.splits, config.held_out, splits, find_duplicates)
    chosen = replace(raw, splits=all_splits)
    # The classes are those of train as it is distributed, before samples are held out of it.
    if config.classes != "all":
        chosen = choose_classes(chosen, raw.class_names or _classes_of_train(raw), config.classes)
    names = () if config.is_retrieval else class_names or chosen.class_names or _classes_of_train(raw)
    raw = choose_shots(chosen, config)
    _check_splits(raw, splits, names)
    duplicates = find_duplicates(itertools.chain.from_iterable(raw.splits.values()))
    repeated = _samples_in_two_splits(raw, duplicates)
    if repeated and not config.allow_duplicates:
        raise DataError(
            f"{raw.source}: {len(repeated)} sample(s) are in more than one split; expected every sample in one split, "
            f"got {shortened_list(repeated)}; set data.allow_duplicates: true to use them anyway"
        )
    if config.is_retrieval:
        converted = {split: _convert_pairs(raw, split, duplicates) for split in splits}
    else:
        converted = {split: _convert_samples(raw, split, names) for split in splits}
    return Dataset(
        class_names=names,
        splits=converted,
        left_out=raw.left_out,
        duplicate_count=len(repeated),
        notes=raw.notes,
    )


def read_all_samples(config: DataConfig, class_names: tuple[str, ...]) -> tuple[Samples, list[str]]:
    """Read all samples of a data set, whatever their split, for a trained model.

    Args:
        config: The `data` section; a split column of None is not read.
        class_names: The classes of the model in order; none for retrieval.

    Returns:
        The samples in the order of the splits, and what is worth knowing about the files.

    Raises:
        DataError: If the data set cannot be read, is empty, or has a label that is unknown.
    """
    reader = load_reader(config)
    raw = with_composed_labels(reader.find_samples())
    _check_split_column(config, reader)
    _check_characters(raw)
    raw = _with_own_names(raw, reader)
    if not config.is_retrieval:
        return convert_all(raw, class_names), list(raw.notes)
    _check_task(config, reader)
    samples = list(itertools.chain.from_iterable(raw.splits.values()))
    if not samples:
        raise DataError(f"{raw.source}: the data set is empty; expected at least one pair")
    copies = DuplicateFinder(reader.open_images, compares_all=True).find(samples)
    return _convert_pairs(replace(raw, splits={"all": samples}), "all", copies), list(raw.notes)


def convert_all(raw: RawDataset, class_names: tuple[str, ...]) -> Samples:
    """Return all samples of a data set, one split after the other, with labels as a trained model has them.

    Args:
        raw: The data set, with labels in composed form.
        class_names: The classes of the model in order.

    Raises:
        DataError: If the data set is empty, or has a label that is unknown.
    """
    samples = list(itertools.chain.from_iterable(raw.splits.values()))
    if not samples:
        raise DataError(f"{raw.source}: the data set is empty; expected at least one sample")
    _check_labels(raw.source, samples, class_names)
    return _convert_samples(replace(raw, splits={"test": samples}), "test", class_names)


def _check_split_column(config: DataConfig, reader: Reader) -> None:
    """Raise DataError if the search file names a column of splits and the data set has a folder for each split."""
    column = config.columns.split
    if column not in (None, ColumnsConfig().split) and reader.has_split_folders():
        raise DataError(
            f"{config.location}: data.columns.split: not allowed, since each split has a folder or files of its own; "
            f"expected no such key, got {shown(column)}"
        )


def _check_task(config: DataConfig, reader: Reader) -> None:
    """Raise DataError if a data set for retrieval has labels."""
    label = ColumnsConfig().label
    if config.is_retrieval and label is not None and reader.has_column(label):
        raise DataError(
            f"{config.location}: has a column {label!r}; with data.task: retrieval, expected pairs of a picture and a "
            "text without labels; leave the column out, or set data.task: classification"
        )


def _with_own_names(raw: RawDataset, reader: Reader) -> RawDataset:
    """Return a data set with the names that the image source has for images that the tables spell differently."""
    spelt = {
        sample.image for samples in raw.splits.values() for sample in samples if not has_one_spelling(sample.image)
    }
    if not spelt:
        return raw
    images = reader.open_images()
    names = {name: own for name in spelt if (own := images.own_name(name)) != name}
    if not names:
        return raw
    splits = {
        split: [sample._replace(image=names.get(sample.image, sample.image)) for sample in samples]
        for split, samples in raw.splits.items()
    }
    first = min(names)
    note = (
        f"{raw.source}: {len(names)} image names are spelt differently in {images.location}: {shown(first)} is "
        f"{names[first]!a} there"
    )
    return replace(raw, splits=splits, notes=(*raw.notes, note))


def open_dataset_images(config: DataConfig) -> ImageSource:
    """Open the image source of a data set.

    Args:
        config: The `data` section of the search file.

    Raises:
        DataError: If the folder or ZIP file of images does not exist.
    """
    return load_reader(config).open_images()


def _classes_of_train(raw: RawDataset) -> tuple[str, ...]:
    names = tuple(sorted({label for sample in raw.splits.get("train", ()) for label in sample.labels}))
    if len(names) < 2:
        raise DataError(f"{raw.source}: the train split has too few classes; expected at least 2, got {len(names)}")
    return names


def _check_splits(raw: RawDataset, splits: Collection[str], class_names: Sequence[str]) -> None:
    """Raise DataError if a requested split is empty or has a label that is not a class."""
    for split in splits:
        if not raw.splits.get(split):
            hint = "" if split == "train" else f"; set data.held_out.{split}, for example to 0.2, to take it from train"
            raise DataError(f"{raw.source}: the {split} split is empty; expected at least one sample{hint}")
    _check_labels(raw.source, itertools.chain.from_iterable(raw.splits[split] for split in splits), class_names)


def _check_labels(source: str, samples: Iterable[RawSample], class_names: Sequence[str]) -> None:
    known = set(map(composed, class_names))
    for sample in samples:
        for label in sample.labels:
            if label not in known:
                near = nearest_class(label, class_names)
                raise DataError(
                    f"{source}, {sample.place}: unknown label {shown(label)}; expected one of the {len(class_names)} "
                    f"classes ({shortened_list(class_names)}){(near and f'; is {near!r} meant?') or ''}"
                )


def _check_characters(raw: RawDataset) -> None:
    for samples in raw.splits.values():
        for sample in samples:
            check_characters((sample.text, sample.image, *sample.labels), f"{raw.source}, {sample.place}")


def _samples_in_two_splits(raw: RawDataset, duplicates: Mapping[str, str]) -> list[str]:
    """Describe the samples with the same image and text in two splits: training on one reveals the label of the other.

    Args:
        raw: The data set.
        duplicates: Images that are copies of another image → that image.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    repeated: list[str] = []
    for split, samples in raw.splits.items():
        for sample in samples:
            image = duplicates.get(sample.image, sample.image)
            place = first.setdefault((image, sample.text), (split, sample.place))
            if place[0] != split:
                repeated.append(f"{sample.image} with the same text ({place[0]}, {place[1]}; {split}, {sample.place})")
    return repeated


def _convert_samples(raw: RawDataset, split: str, class_names: Sequence[str]) -> Samples:
    samples = raw.splits[split]
    return Samples(
        images=tuple(sample.image for sample in samples),
        texts=tuple(sample.text for sample in samples),
        labels=_convert_labels(samples, class_names, raw.has_several_labels),
        places=tuple(sample.place for sample in samples),
    )


def _convert_pairs(raw: RawDataset, split: str, copies: Mapping[str, str]) -> Samples:
    """Return the samples of a split for retrieval.

    Args:
        raw: The data set.
        split: The name of the split.
        copies: Images that are copies of another image → that image.

    Raises:
        DataError: If there is nothing to tell apart.
    """
    samples = raw.splits[split]
    images, texts = tuple(sample.image for sample in samples), tuple(sample.text for sample in samples)
    items = pair_items(images, texts, copies)
    check_negatives(items, f"{raw.source}, {split}")
    return Samples(images=images, texts=texts, labels=items, places=tuple(sample.place for sample in samples))


def _convert_labels(samples: Sequence[RawSample], class_names: Sequence[str], has_several: bool) -> Labels:
    index = {composed(name): position for position, name in enumerate(class_names)}
    if not has_several:
        return np.array([index[sample.labels[0]] for sample in samples], dtype=np.int64)
    labels = np.zeros((len(samples), len(index)), dtype=np.float32)
    for row, sample in enumerate(samples):
        labels[row, [index[label] for label in sample.labels]] = 1.0
    return labels
