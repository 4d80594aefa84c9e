"""Check that the data and encoders of a run are those that it was started with, and name what has changed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.common.boundary import shown
from nas.common.errors import NasError, StudyError
from nas.common.sealed_json import read_sealed_json, write_sealed_json
from nas.config.schema import Config
from nas.data.contents import DATA, Contents, changed_samples
from nas.data.samples import Dataset
from nas.models.encoders.digests import weight_files
from nas.run.directory import CONTENTS
from nas.run.sources import resolve_checkpoints

_FILES = {"config": "config.json", "processor": "preprocessor_config.json", "tokenizer": "the files of the tokenizer"}
_DIGEST_SHOWN = 16


def check_contents(
    directory: Path, recorded: Mapping[str, str], config: Config, dataset: Dataset, contents: Contents
) -> None:
    """Check that data and encoders are unchanged.

    Args:
        directory: The run directory, or another one with the file `contents.json`.
        recorded: The earlier summary of the contents; see `Contents.summary`.
        config: The configuration of the search.
        dataset: The present samples of train and validation.
        contents: The content of the present data and encoders.

    Raises:
        StudyError: If something has changed; names it.
    """
    present = contents.summary()
    if recorded == present:
        return
    lines = [] if recorded.get(DATA) == present[DATA] else list(_changed_data(directory, config, dataset, contents))
    raise StudyError(_refusal(directory, [*lines, *_changed_encoders(config, recorded, present)]))


def check_encoders_of_run(
    directory: Path, recorded: Mapping[str, str], config: Config, parts: Mapping[str, str]
) -> None:
    """Check that the encoders are those of a run.

    Args:
        directory: The run directory.
        recorded: The recorded summary of the contents of the run.
        config: The configuration of the run.
        parts: The digests of the present encoders.

    Raises:
        StudyError: If one has changed; names its file.
    """
    lines = _changed_encoders(config, recorded, parts)
    if lines:
        raise StudyError(_refusal(directory, lines))


def _refusal(directory: Path, lines: Sequence[str]) -> str:
    return "\n".join(
        [
            f"{directory}: its data or encoders have changed since it was started, so its scores are not comparable:",
            *(f"  - {line}" for line in lines),
            "restore them, give their place (--data, --images, --image-encoder, --text-encoder), or use a new "
            "directory (--run-dir)",
        ]
    )


def _changed_data(directory: Path, config: Config, dataset: Dataset, contents: Contents) -> Iterator[str]:
    try:
        lines = read_sealed_json(
            directory / CONTENTS,
            lambda recorded: list(changed_samples(recorded, dataset, contents)),
            expected="the digests of the samples of the run",
            remedy="it is written again at the next start",
        )
    except NasError:
        lines = []  # the file only serves this message, and is written again at every start
    for line in lines or ["the samples of train or validation"]:
        yield f"{config.data.location}: {line}"


def _changed_encoders(config: Config, recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    lines = []
    encoders = zip(("image", "text"), resolve_checkpoints(config), strict=True)
    for modality, checkpoint in encoders:
        for part in ("config", "weights", "processor", "tokenizer"):
            key = f"{modality}_encoder.{part}"
            if recorded.get(key) != present.get(key):
                file = weight_files(checkpoint) if part == "weights" else _FILES[part]
                before, now = (shown(values.get(key, "none"), _DIGEST_SHOWN) for values in (recorded, present))
                lines.append(
                    f"{modality} encoder {checkpoint}: {file}: the content has changed; expected the digest {before}, "
                    f"got {now}"
                )
    return lines


def write_contents(directory: Path, contents: Contents) -> None:
    """Write the file from which changed samples are named.

    Args:
        directory: The run directory.
        contents: The content of the data and encoders.

    Raises:
        OSError: If the file cannot be written.
    """
    write_sealed_json(directory / CONTENTS, contents.data_as_dict())
