"""The data readers of this package: one line each. Imports no torch."""

from nas.config.reader_registry import FILE_NAME, LABEL_KEYS, TABLE_KEYS, register_reader


def register() -> None:
    """Register all built-in data readers, in the order in which messages list them."""
    readers = "nas.data.readers"
    register_reader(
        "manifest", f"{readers}.manifest:ManifestReader", keys=("manifest", "images", *LABEL_KEYS, *TABLE_KEYS)
    )
    register_reader(
        "image_folder",
        f"{readers}.image_folder:ImageFolderReader",
        keys=("folder", *LABEL_KEYS, *TABLE_KEYS),
        image_column=FILE_NAME,
    )
    register_reader("datasets", f"{readers}.hf_dataset:SavedDatasetReader")
    register_reader("food101", f"{readers}.food101:Food101Reader", keys=("folder", "texts"), held_out_validation=5000.0)
    register_reader("mm_imdb", f"{readers}.mm_imdb:MMIMDbReader", keys=("folder",), has_several_labels=True)
    register_reader("snli_ve", f"{readers}.snli_ve:SNLIVEReader", keys=("folder",))
