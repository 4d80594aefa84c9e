"""The processor of an exported model: it makes exactly the inputs that the model was trained with."""

import copy
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from nas.common.boundary import shown
from nas.config.data_schema import MAX_PIXELS
from nas.data.given_images import open_picture
from nas.data.preprocessing import Preprocessor
from nas.models.encoders.pretrained import load_processor_parts

Padding = bool | Literal["longest", "max_length", "do_not_pad"]

_INPUT_NAMES = ["pixel_values", "input_ids", "attention_mask"]


class FusionProcessor(ProcessorMixin):
    """The image processor and the tokenizer of an exported model, as one processor of transformers.

    Pictures are converted and texts are cut like those of the training data, so the results are equal to the inputs of
    the training to the bit.

    Args:
        image_processor: The image processor, with the Pillow backend.
        tokenizer: The tokenizer; its `model_max_length` is the number of tokens that texts were cut to in training.
    """

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        super().__init__(image_processor, tokenizer)  # type: ignore[no-untyped-call]

    @property
    def model_input_names(self) -> list[str]:
        """The names of the results of `__call__`."""
        return list(_INPUT_NAMES)

    @property
    def preprocessor(self) -> Preprocessor:
        """The same image processor and tokenizer in the form that the training uses."""
        return Preprocessor(
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            max_text_tokens=int(self.tokenizer.model_max_length),
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        padding: Padding = True,
        return_tensors: Literal["pt", "np"] | None = "pt",
    ) -> BatchFeature:
        """Return the inputs of the model; what is not given is left out.

        Args:
            images: A picture, or a list: pictures of PIL of any mode, arrays of uint8 (H, W), (H, W, 3) or (H, W, 4),
                or paths or bytes of image files.
            text: A text, or a list.
            padding: True or `longest` pads texts to the longest of them, `max_length` to the longest of the training;
                false or `do_not_pad` needs texts of one length, unless `return_tensors` is None.
            return_tensors: `pt` for tensors, `np` for arrays, None for lists.

        Returns:
            `pixel_values` (B, 3, height, width), float32; `input_ids` and `attention_mask` (B, T), int64, with 1 where
            there is a token.

        Raises:
            DataError: If a picture cannot be read or used.
            ValueError: If neither pictures nor texts are given.
        """
        if images is None and text is None:
            raise ValueError("FusionProcessor: images and text are missing; expected at least one of them")
        values: dict[str, Any] = {}
        if images is not None:
            values["pixel_values"] = self._pixel_values(images)
        if text is not None:
            values |= self._tokens([text] if isinstance(text, str) else list(text), padding)
        if return_tensors == "pt":
            return BatchFeature({name: torch.as_tensor(np.asarray(value)) for name, value in values.items()})
        return BatchFeature(values, tensor_type=return_tensors)

    def _pixel_values(self, images: Any) -> NDArray[np.float32]:
        is_array = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim in (2, 3)
        is_single = is_array or isinstance(images, str | os.PathLike | Image.Image | bytes)
        pictures = [images] if is_single else list(images)
        opened = [open_picture(picture, f"images[{index}]", MAX_PIXELS) for index, picture in enumerate(pictures)]
        pixels: NDArray[np.float32] = self.preprocessor.pixel_values(opened).numpy()
        return pixels

    def _tokens(self, texts: list[str], padding: Padding) -> dict[str, Any]:
        ids = self.preprocessor.token_ids(texts)
        if padding in (False, "do_not_pad"):
            return {"input_ids": [row.tolist() for row in ids], "attention_mask": [[1] * len(row) for row in ids]}
        if padding not in (True, "longest", "max_length"):
            raise ValueError(
                f"padding: not allowed; expected true, false, longest, max_length or do_not_pad, got {shown(padding)}"
            )
        rows, mask = (entry.numpy() for entry in self.preprocessor.pad(ids))
        if padding == "max_length":
            missing = int(self.tokenizer.model_max_length) - rows.shape[1]
            pad_id = getattr(self.tokenizer, "pad_token_id", None) or 0
            rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=pad_id)
            mask = np.pad(mask, ((0, 0), (0, missing)))
        return {"input_ids": rows, "attention_mask": mask.astype(np.int64)}

    def to_dict(self) -> dict[str, Any]:
        """Return what `processor_config.json` holds: the parts have files of their own."""
        return {"processor_class": type(self).__name__}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> list[str]:
        """Save the processor, as for any processor of transformers, with the image processor in a file of its own.

        Args:
            save_directory: The folder.
            push_to_hub: Whether to upload the files, as transformers does.
            options: Options of transformers' `save_pretrained`.
        """
        self.image_processor.save_pretrained(save_directory)
        files: list[str] = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **options)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> "FusionProcessor":
        """Load the processor from a folder or the Hugging Face Hub; no code of it is run.

        Args:
            pretrained_model_name_or_path: The folder of the model, or its name on the hub.
            arguments: None; transformers' `from_pretrained` has no further ones.
            options: Options of transformers' `from_pretrained`.

        Raises:
            ExportError: If the folder names custom code, or holds damaged files.
        """
        del arguments
        return cls(*load_processor_parts(pretrained_model_name_or_path, **options))


def processor_of(image_processor: Any, tokenizer: Any, max_text_tokens: int) -> FusionProcessor:
    """Return the processor that makes the same inputs as the training.

    Args:
        image_processor: The image processor of the training.
        tokenizer: The tokenizer of the training; it is copied.
        max_text_tokens: The number of tokens that texts were cut to.
    """
    own = copy.deepcopy(tokenizer)
    own.model_max_length = max_text_tokens
    own.model_input_names = _INPUT_NAMES[1:]  # the others, token_type_ids for one, hold nothing in training
    own.init_kwargs |= {"model_max_length": max_text_tokens, "model_input_names": _INPUT_NAMES[1:]}
    return FusionProcessor(image_processor, own)
