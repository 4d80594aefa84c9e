"""A table file that describes one sample per row: image, text, labels and, optionally, the split."""

from collections.abc import Iterator
from pathlib import Path

from nas.data.images import ImageSource, open_images
from nas.data.inputs import Input
from nas.data.readers.base import Reader
from nas.data.readers.image_tables import image_table_inputs, read_image_table
from nas.data.readers.parquet_files import ParquetImages, holds_images
from nas.data.readers.rows import parse_sample, parse_split, row_inputs
from nas.data.readers.tables import has_column, input_columns, read_rows, table_rows
from nas.data.samples import SPLITS, RawDataset, RawSample


class ManifestReader(Reader):
    """Reads every row of a CSV, TSV, JSON, JSON Lines or Parquet file."""

    def find_samples(self) -> RawDataset:
        config, path = self.config, Path(self.config.manifest or "")
        splits: dict[str, list[RawSample]] = {split: [] for split in SPLITS}
        notes: list[str] = []
        if self._has_images_inside():
            splits = read_image_table(path, {"": [path]}, config)
            return RawDataset(str(path), splits, has_several_labels=config.labels == "several")
        for number, row in read_rows(path, config, config.columns, notes):
            place = f"row {number}"
            sample = parse_sample(row, config, source=str(path), place=place)
            splits[parse_split(row, config.columns, f"{path}, {place}")].append(sample)
        return RawDataset(str(path), splits, has_several_labels=config.labels == "several", notes=notes)

    def lacks_split_column(self) -> bool:
        split = self.config.columns.split
        return split is not None and not has_column(Path(self.config.manifest or ""), split, self.config)

    def has_column(self, name: str) -> bool:
        return has_column(Path(self.config.manifest or ""), name, self.config)

    def inputs(self, id_column: str | None) -> Iterator[Input]:
        config, path = self.config, Path(self.config.manifest or "")
        if self._has_images_inside():
            return image_table_inputs(path, {"": [path]}, config.columns, id_column)
        columns = config.columns.replace(split=None)
        rows = table_rows(path, config, columns, input_columns(columns, id_column), [])
        return row_inputs(rows, columns, id_column, str(path))

    def open_images(self) -> ImageSource:
        config, path = self.config, Path(self.config.manifest or "")
        if not self._has_images_inside():
            return open_images(Path(config.images or ""), config.max_pixels)
        folder = Path(config.images or "")
        return ParquetImages(path, {"": [path]}, config.columns.image, folder=folder, max_pixels=config.max_pixels)

    def _has_images_inside(self) -> bool:
        path = Path(self.config.manifest or "")
        return path.suffix.lower() == ".parquet" and holds_images(path, self.config.columns.image)
