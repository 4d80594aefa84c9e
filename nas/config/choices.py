"""The fixed choices of the search file, without slow imports: the command line lists them in its help."""

from typing import Literal, get_args

FeatureDtype = Literal["float16", "float32", "int8"]
FeatureStorage = Literal["auto", "every_layer", "lowest_layer", "none"]
Task = Literal["classification", "retrieval"]
Labels = Literal["one", "several"]
ClassHalf = Literal["all", "base", "novel"]
Quotes = Literal["auto", "double", "none"]
Texts = Literal["titles", "pages"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "constant"]
ClassifierStart = Literal["random", "linear"]
ClassWeights = Literal["none", "inverse_frequency"]
Sampling = Literal["uniform", "sandwich", "balanced"]
Oversized = Literal["reject", "accumulate"]
AnswerKind = Literal["auto", "ensemble", "single"]
ReadoutChoice = Literal["linear", "searched"]

SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
ANSWERS: tuple[AnswerKind, ...] = get_args(AnswerKind)
EXPORT_FORMATS = ("onnx", "torch_export")
"""The formats of `export --format`."""
COLUMNS = ("image", "text", "label", "split")
"""The columns that a data set can have."""
