"""Parts of an exported model besides its trained weights."""

from dataclasses import dataclass, replace
from typing import Any

from nas.config.schema import Config
from nas.data.preprocessing import Preprocessor
from nas.models.class_texts import ClassTexts
from nas.models.encoders.base import Encoder
from nas.models.encoders.checkpoints import load_encoder
from nas.models.encoders.pretrained import load_image_processor, load_tokenizer
from nas.run.prepare import SearchContext
from nas.run.sources import read_class_texts, resolve_checkpoints


@dataclass(frozen=True)
class ModelParts:
    """Parts of an exported model besides its trained weights.

    Args:
        image_encoder: The frozen image encoder.
        text_encoder: The frozen text encoder.
        image_processor: The image processor of the image encoder.
        tokenizer: The tokenizer of the text encoder.
        class_names: The class names in the order of the logits.
        max_text_tokens: The number of tokens that texts are cut to.
        class_texts: The texts of the classes, for a family that reads them.
    """

    image_encoder: Encoder
    text_encoder: Encoder
    image_processor: Any
    tokenizer: Any
    class_names: tuple[str, ...]
    max_text_tokens: int
    class_texts: ClassTexts | None = None

    @classmethod
    def of(cls, prepared: SearchContext) -> "ModelParts":
        """Return the parts of a search that is running."""
        return cls(
            image_encoder=prepared.image_encoder,
            text_encoder=prepared.text_encoder,
            image_processor=prepared.preprocessor.image_processor,
            tokenizer=prepared.preprocessor.tokenizer,
            class_names=prepared.store.class_names,
            max_text_tokens=prepared.preprocessor.max_text_tokens,
            class_texts=prepared.class_texts,
        )

    @property
    def preprocessor(self) -> Preprocessor:
        """The image processor and tokenizer."""
        return Preprocessor(
            image_processor=self.image_processor, tokenizer=self.tokenizer, max_text_tokens=self.max_text_tokens
        )

    @classmethod
    def load(cls, config: Config, class_names: tuple[str, ...]) -> "ModelParts":
        """Load the parts of a finished search from the checkpoints of its encoders."""
        image, text = resolve_checkpoints(config)
        has_heads = config.space.architecture_class.reads_class_texts
        text_encoder = load_encoder(text, "text", has_head=has_heads)
        parts = cls(
            image_encoder=load_encoder(image, "image", has_head=has_heads),
            text_encoder=text_encoder,
            image_processor=load_image_processor(image),
            tokenizer=load_tokenizer(text),
            class_names=class_names,
            max_text_tokens=config.data.max_text_tokens or text_encoder.max_text_tokens,
        )
        texts = read_class_texts(config, config.name, text_encoder, parts.preprocessor, class_names)
        return replace(parts, class_texts=texts)
