"""The sections `data` and `features` of the search file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import MaxLen, MinLen
from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from nas.common.units import MAX_COUNT, MAX_SEED
from nas.config.choices import COLUMNS, ClassHalf, FeatureDtype, FeatureStorage, Labels, Quotes, Task, Texts
from nas.config.class_prompts import DEFAULT_PROMPTS, ClassPrompts
from nas.config.reader_registry import READERS, ReaderEntry
from nas.config.section import AUTO, Expected, Rejected, Section
from nas.config.values import Bytes, Flag, Integer, LocalPath, Number, OneOf, PathText, Text, as_number
from nas.search.metric_registry import LabelKind

_FORM = (
    "reader",
    "task",
    "labels",
    "label_separator",
    "held_out",
    "columns",
    "texts",
    "skip_unreadable_images",
    "max_pixels",
    "delimiter",
    "quotes",
)
_FILE_OR_FOLDER = Expected("a path, relative to the folder of the search file or absolute")

MAX_PIXELS = 200_000_000
"""The default of `data.max_pixels`: above all photographs; 4 bytes each are 800 MB."""

LocationText = Annotated[PathText, LocalPath(), _FILE_OR_FOLDER]
_SHARE = Expected("auto, or a fraction above 0 and at most 1")


def _as_share(value: Any) -> float | Literal["auto"]:
    if value == AUTO:
        return "auto"
    number = as_number(value)
    if not 0 < number <= 1:
        raise Rejected()
    return float(number)


Share = Annotated[
    float | Literal["auto"],
    PlainValidator(_as_share),
    WithJsonSchema({"anyOf": [{"const": AUTO}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]}),
    _SHARE,
]
Amount = Annotated[Number, Expected("a fraction below 1, or a whole number of images")]


class ColumnsConfig(Section):
    """Names of the columns of a data set."""

    image: Text = Field(default="image", description="The column of image paths.")
    text: Text = Field(default="text", description="The column of texts.")
    label: Text | None = Field(default="label", description="The column of labels; null with `task: retrieval`.")
    split: Text | None = Field(
        default="split",
        description="The column of splits; null if the data set has none, so that `data.held_out` makes them.",
    )


class HeldOutConfig(Section):
    """The numbers of training images that become the splits that the data set lacks, stratified by class."""

    validation: Amount = Field(
        default=0.0,
        description="A fraction of the training images, or their number, for a missing validation split. The default "
        "is 5000 with `reader: food101`.",
    )
    test: Amount = Field(
        default=0.0, description="A fraction of the training images, or their number, for a missing test split."
    )
    seed: Integer = Field(default=0, ge=0, le=MAX_SEED, description="The seed of the draw.")

    @field_validator("validation", "test")
    @classmethod
    def _is_fraction_or_count(cls, value: float) -> float:
        if not 0 <= value <= MAX_COUNT or (value >= 1 and not value.is_integer()):
            raise Rejected()
        return value


class DataConfig(Section):
    """The samples: images, texts and labels."""

    reader: Annotated[Text, OneOf(READERS.names)] = Field(default="manifest", description="The format of the data set.")
    task: Task = Field(
        default="classification",
        description="What a model does: `classification` of a picture with its text, or `retrieval` of the texts of a "
        "picture and the pictures of a text. For retrieval, a row is a pair without label.",
    )
    manifest: LocationText | None = Field(
        default=None,
        description="A CSV, TSV, JSON Lines or Parquet file with one row per sample. Required by `reader: manifest`, "
        "not allowed with other readers.",
    )
    folder: LocationText | None = Field(
        default=None, description="The folder of the data set. Required by all readers but `manifest`."
    )
    images: LocationText | None = Field(
        default=None,
        description="A folder or ZIP file that the image paths of the manifest are relative to. A path may lead into a "
        "ZIP file of the folder. The default is the folder of the manifest.",
    )
    columns: ColumnsConfig = Field(
        default=ColumnsConfig(), description="The names of the columns, where the reader does not fix them."
    )
    labels: Labels = Field(
        default="one", description="Whether each sample has exactly one label or any number of them."
    )
    label_separator: Text = Field(default="|", description="The text between several labels in one cell.")
    delimiter: Annotated[Text, MinLen(1), MaxLen(1)] | None = Field(
        default=None,
        description="The character between the values of a table; null: a tab in .tsv and .tab files, otherwise a "
        "comma.",
    )
    quotes: Quotes = Field(
        default="auto",
        description="Whether values of a table may be quoted: `double`, with doubled quotes inside, or `none`; `auto`: "
        "none in .tsv and .tab files, otherwise double.",
    )
    held_out: HeldOutConfig = Field(
        default=HeldOutConfig(), description="The amounts taken from the training split to make missing splits."
    )
    classes: ClassHalf = Field(
        default="all",
        description="The classes whose samples are used: `all`; `base`, the first half of the classes sorted by name, "
        "with the middle one; `novel`, the others.",
    )
    shots: Integer | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="The number of training samples of each class that are used, drawn by `shots_seed`; of a class "
        "with fewer, all; null: all.",
    )
    validation_shots: Integer | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="The number of validation samples of each class that are used; null: all, whatever `shots` is, "
        "since every choice is made on validation.",
    )
    shots_seed: Integer = Field(
        default=0, ge=0, le=MAX_SEED, description="The seed of the draw of `shots` and `validation_shots`."
    )
    search_share: Share = Field(
        default="auto",
        description="The share of the training samples, stratified by class, that the supernet and short trainings "
        "read; full trainings read all. `auto`: as many as they can read without reading one twice, at least 50,000.",
    )
    texts: Texts = Field(default="titles", description="The texts of Food-101: page titles or whole pages.")
    max_text_tokens: Integer | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="Longer texts are truncated to this many tokens; null: to what the text encoder can read.",
    )
    class_prompts: ClassPrompts = Field(
        default=DEFAULT_PROMPTS,
        description="The texts of the classes, read by families that compare images with them: one or a list, each "
        "with one `{}`, which stands for the label with spaces in place of underscores. Embeddings under several are "
        "averaged.",
    )
    skip_unreadable_images: Flag = Field(
        default=False,
        description="Whether to skip unreadable images; they are counted and named. Otherwise they are an error.",
    )
    max_pixels: Integer = Field(
        default=MAX_PIXELS,
        ge=1,
        le=2**31 - 1,
        description="The number of pixels that an image may have; larger ones are unreadable. Decoding needs up to 4 "
        "bytes for each.",
    )
    allow_duplicates: Flag = Field(
        default=False,
        description="Whether a sample may occur in two splits. Samples are compared by text and by path and content of "
        "the image.",
    )

    @field_validator("task")
    @classmethod
    def _has_pairs(cls, value: Task, info: ValidationInfo) -> Task:
        entry = _entry(info)
        if value == "retrieval" and entry is not None and not entry.has_label_keys:
            readers = ", ".join(name for name in READERS if READERS[name].has_label_keys)
            raise Rejected(
                f"classification with reader: {info.data['reader']}, whose samples have labels, or one of the readers "
                f"{readers}"
            )
        return value

    @field_validator("labels")
    @classmethod
    def _retrieval_has_none(cls, value: Labels, info: ValidationInfo) -> Labels:
        if value != "one" and info.data.get("task") == "retrieval":
            raise Rejected("no such key with task: retrieval", problem="not allowed")
        return value

    @field_validator("columns")
    @classmethod
    def _labels_belong_to_the_task(cls, value: ColumnsConfig, info: ValidationInfo) -> ColumnsConfig:
        if info.data.get("task") == "retrieval":
            if value.label is not None and "label" in value.model_fields_set:
                raise Rejected("null with task: retrieval, which reads no labels", path=("label",), got=value.label)
            return value.replace(label=None)
        if value.label is None:
            raise Rejected("a column, null only with task: retrieval", path=("label",), got=None)
        return value

    @field_validator(
        "manifest", "folder", "images", "columns", "labels", "label_separator", "delimiter", "quotes", "texts"
    )
    @classmethod
    def _belongs_to_reader(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        entry = _entry(info)
        if entry is None:
            return value
        field = cls.model_fields[name]
        if name in entry.keys:
            if name in ("manifest", "folder") and value is None:
                raise Rejected(f"{_FILE_OR_FOLDER}", problem="missing")
            return value
        if value is not None and value != field.get_default(call_default_factory=True):
            raise Rejected(f"no such key with reader: {info.data['reader']}", problem="not allowed")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_have_one_role_each(cls, value: ColumnsConfig, info: ValidationInfo) -> ColumnsConfig:
        fixed = getattr(_entry(info), "image_column", None)
        if fixed is not None and value.image not in (fixed, ColumnsConfig().image):
            expected = f"no such key with reader: {info.data['reader']}, whose column of image paths is {fixed}"
            raise Rejected(expected, problem="not allowed", path=("image",), got=value.image)
        roles: dict[str, str] = {}
        for role in COLUMNS:
            column = fixed if role == "image" and fixed is not None else getattr(value, role)
            if column is not None and roles.setdefault(column, role) != role:
                named = "" if role in value.model_fields_set else f", the default of {role}"
                hint = ", or split: null if the data set has no column of splits" if role == "split" else ""
                expected = f"a column of its own, not that of {roles[column]}{hint}"
                raise Rejected(f"{expected}{named}", path=(role,), got=column)
        return value

    @field_validator("classes", "shots", "validation_shots")
    @classmethod
    def _samples_have_one_class(cls, value: Any, info: ValidationInfo) -> Any:
        entry = _entry(info)
        several = info.data.get("labels") == "several" or (entry is not None and entry.has_several_labels)
        if value not in (None, "all") and (several or info.data.get("task") == "retrieval"):
            raise Rejected("no such key where a sample may have several labels or none", problem="not allowed")
        return value

    @field_validator("images")
    @classmethod
    def _images_are_beside_the_manifest(cls, value: str | None, info: ValidationInfo) -> str | None:
        manifest = info.data.get("manifest")
        return str(Path(manifest).parent) if value is None and manifest is not None else value

    @field_validator("held_out", mode="before")
    @classmethod
    def _validation_depends_on_reader(cls, value: Any, info: ValidationInfo) -> Any:
        entry = _entry(info)
        if entry is None or not entry.held_out_validation:
            return value
        if isinstance(value, dict):
            return {"validation": entry.held_out_validation, **value}
        if isinstance(value, HeldOutConfig) and not value.model_fields_set:
            return value.replace(validation=entry.held_out_validation)
        return value

    @property
    def location(self) -> str:
        """The file or folder, for messages."""
        return self.manifest or self.folder or ""

    @property
    def is_retrieval(self) -> bool:
        """Whether the task is image-text retrieval."""
        return self.task == "retrieval"

    @property
    def label_kind(self) -> LabelKind:
        """What the samples are evaluated by."""
        if self.is_retrieval:
            return "pairs"
        return "multiple" if self.has_several_labels else "single"

    @property
    def has_several_labels(self) -> bool:
        """Whether a sample may have several labels."""
        return self.labels == "several" or (self.reader in READERS and READERS[self.reader].has_several_labels)

    def form(self) -> dict[str, Any]:
        """Return all keys but the location, so that another data set can be read in the same way."""
        return self.model_dump(mode="json", by_alias=True, include=set(_FORM))


def _entry(info: ValidationInfo) -> ReaderEntry | None:
    """Return the entry of the reader of the section under validation; None if its name is invalid."""
    reader = info.data.get("reader")
    return None if reader is None else READERS[reader]


class FeaturesConfig(Section):
    """The cache of encoder outputs on disk, which depend on no trained parameter."""

    dtype: FeatureDtype = Field(
        default="float16",
        description="The number format of the cached outputs. `int8` takes half the space of `float16`: each token has "
        "a scale of its own, and its values are rounded to 255 steps.",
    )
    disk_bytes: Bytes = Field(
        default=20 * 2**30,
        validate_default=False,  # a search file cannot give bytes without a unit
        validation_alias="disk",
        serialization_alias="disk",
        description="The disk space for one data set. If it is too small for the inputs of every fusion layer, "
        "those of deeper layers are computed whenever they are read.",
    )
    storage: FeatureStorage = Field(
        default="auto",
        description="The fusion layers whose inputs are cached: `every_layer`; `lowest_layer`, so that those of deeper "
        "layers are computed whenever they are read; `none`, so that every step decodes its images and computes all "
        "frozen layers; `auto`: every layer if that fits `disk`, otherwise the lowest. What each costs is printed "
        "before the outputs are computed.",
    )
    views: Integer = Field(
        default=1,
        ge=1,
        le=100,
        description="The number of views of each training image: the image itself and augmented ones.",
    )
    attention: Flag = Field(
        default=False,
        description="Whether to cache what data tokens attend to among themselves, too: twice the disk space, faster "
        "training steps.",
    )
