"""The pipeline of transformers for exported models: pictures with texts in, labels with probabilities out."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline

from nas.common.boundary import shown
from nas.models.classifier import MULTI_LABEL

TASK = "multimodal-classification"
"""The name of the task: `transformers.pipeline(TASK, model=folder)`."""


_Pipeline: Any = Pipeline  # without its annotations, which many pipelines of transformers do not follow either


class FusionPipeline(_Pipeline):  # type: ignore[misc]
    """Classify pictures with their texts.

    An input is a mapping with `image`, a picture of PIL or the path of one, and `text`. An output is a list of mappings
    with `label` and `score`, the most probable label first. Scores add up to 1, except where a sample may have several
    labels: then each is the probability of its own label.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, text: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Classify one input or a list.

        Args:
            inputs: A mapping, or a list or an iterator of them; with `text`, a picture or a list of pictures.
            text: The text of the picture, or the list of texts; None if `inputs` has them.
            options: `top_k`, the number of labels (default: all), and options of every pipeline, such as `batch_size`.

        Raises:
            ValueError: If an input lacks its picture or its text, or the numbers of pictures and texts differ.
        """
        if isinstance(text, str):
            inputs = {"image": inputs, "text": text}
        elif text is not None:
            if not isinstance(inputs, list | tuple) or len(inputs) != len(text):
                raise ValueError(f"text: wrong number; expected one for each picture, got {len(text)}")
            inputs = [{"image": image, "text": entry} for image, entry in zip(inputs, text, strict=True)]
        return super().__call__(inputs, **options)

    def _sanitize_parameters(
        self, top_k: int | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if options:
            raise TypeError(f"{', '.join(options)}: unknown option; expected top_k")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, input_: Any, **options: Any) -> Any:
        """Return the inputs of the model for one input."""
        del options
        if not isinstance(input_, Mapping) or not {"image", "text"} <= set(input_):
            raise ValueError(f"input: not allowed; expected a mapping with image and text, got {shown(input_)}")
        return self.processor(images=[input_["image"]], text=[input_["text"]])

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        del options
        return self.model(**input_tensors, return_dict=True)

    def postprocess(self, model_outputs: Any, top_k: int | None = None) -> list[dict[str, Any]]:
        """Return the labels of one input with their probabilities, the most probable first."""
        logits, config = model_outputs.logits[0].float(), self.model.config
        scores = logits.sigmoid() if config.problem_type == MULTI_LABEL else logits.softmax(dim=0)
        values, indices = scores.sort(descending=True, stable=True)
        return [
            {"label": config.id2label[index], "score": value}
            for index, value in list(zip(indices.tolist(), values.tolist(), strict=True))[:top_k]
        ]

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the model and its processor; unlike other pipelines with a task of their own, this saves no code.

        Args:
            save_directory: The folder.
            options: Options of the model's `save_pretrained`.
        """
        self.processor.save_pretrained(save_directory)
        self.model.save_pretrained(save_directory, **options)
