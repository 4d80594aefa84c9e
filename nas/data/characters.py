"""Check the characters of texts: JSON can express lone surrogates, but neither tokenizers nor files can hold them."""

from collections.abc import Iterable

from nas.common.errors import DataError


def check_characters(texts: Iterable[str], where: str) -> None:
    """Check that texts have complete characters.

    Args:
        texts: The texts.
        where: File and row, for messages.

    Raises:
        DataError: If one has a lone surrogate.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: {text[:60]!r} has an unpaired surrogate at position {error.start}; expected complete "
                "characters"
            ) from error
