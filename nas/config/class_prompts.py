"""The templates of class texts in the search file: `data.class_prompts`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from nas.config.section import Expected, Rejected

SLOT = "{}"
"""What stands for the name of the class."""
DEFAULT_PROMPTS = ("a photo of a {}",)

_MAX_PROMPTS = 1_000
_MAX_LENGTH = 1_000


def _as_prompts(value: Any) -> tuple[str, ...]:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple) or not 0 < len(prompts) <= _MAX_PROMPTS:
        raise Rejected()
    for prompt in prompts:
        if not isinstance(prompt, str) or not _is_template(prompt) or prompts.count(prompt) > 1:
            raise Rejected(got=prompt)
    return tuple(prompts)


def _is_template(prompt: str) -> bool:
    return prompt.count(SLOT) == 1 and len(prompt) <= _MAX_LENGTH and prompt.isprintable()


_TEMPLATE = {"type": "string", "pattern": r"^[^{}]*\{\}[^{}]*$", "maxLength": _MAX_LENGTH}

ClassPrompts = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_prompts),
    WithJsonSchema({"anyOf": [_TEMPLATE, {"type": "array", "items": _TEMPLATE, "minItems": 1, "uniqueItems": True}]}),
    Expected("a text with exactly one {}, such as 'a photo of a {}', or a list of different ones"),
]


def class_text(prompt: str, label: str) -> str:
    """Return the text of a class.

    Args:
        prompt: A template.
        label: The label in the data; its underscores become spaces.
    """
    return prompt.replace(SLOT, label.replace("_", " "))
