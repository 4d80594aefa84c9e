"""A tiny random model of every encoder family, and the results of `transformers` itself, for the contract suites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    ViTConfig,
)

from nas.models.encoders.base import Encoder
from nas.models.encoders.registry import encoder_family
from tests.support.tiny import perturbed

VOCABULARY, END = 50, 49
POSITIONS = 20
"""Maximum number of tokens of every tiny text model."""


def _padding(model: Any, rows: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(len(mask), 1, 1, mask.shape[1], dtype=rows.dtype).masked_fill(
        ~mask[:, None, None, :], float("-inf")
    )


def _causal(model: Any, rows: Tensor, mask: Tensor) -> Tensor:
    ahead = torch.arange(rows.shape[1])[None, :] > torch.arange(rows.shape[1])[:, None]
    return _padding(model, rows, mask).masked_fill(ahead, float("-inf"))


def _relative(model: Any, rows: Tensor, mask: Tensor) -> Tensor:
    relative: Tensor = model.encoder.compute_position_bias(rows)
    return relative + _padding(model, rows, mask)


def _last_of_each(rows: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[seen][-1] for row, seen in zip(rows, mask, strict=True)])


@dataclass(frozen=True)
class TinyFamily:
    """One encoder family, or a variant of one.

    Args:
        model_type: The `model_type` of its configuration.
        config: Function from num_layers, hidden size and number of heads to a configuration.
        layers: The attribute of the model that holds its layers.
        readout: Function from the model, the tokens after the last layer and the mask to the classifier's input.
        pooled: Function from the model's output to the same input, as the model computes it.
        data_mask: Function from the model, tokens and mask to the additive mask between the data tokens.
        pad_id: The id of the padding token.
        name: The name of a variant.
    """

    model_type: str
    config: Callable[[int, int, int], Any]
    layers: str
    readout: Callable[[Any, Tensor, Tensor], Tensor]
    pooled: Callable[[Any], Tensor]
    data_mask: Callable[[Any, Tensor, Tensor], Tensor] = _padding
    pad_id: int = 0
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.model_type

    @property
    def modality(self) -> str:
        return encoder_family(self.model_type).modality

    def model(self, num_layers: int = 3, width: int = 16, dtype: torch.dtype = torch.float64) -> Any:
        """Return a model with random weights, including norms and biases."""
        torch.manual_seed(1)
        family = encoder_family(self.model_type)
        model = family.load_model_class()(self.config(num_layers, width, width // 8), **family.options)
        return perturbed(model).to(dtype).eval()

    def encoder(self, model: Any) -> Encoder:
        return encoder_family(self.model_type).load_encoder_class()(model)

    def layers_of(self, model: Any) -> Sequence[torch.nn.Module]:
        layers: Sequence[torch.nn.Module] = attrgetter(self.layers)(model)
        return layers

    def batch(self, dtype: torch.dtype = torch.float64, length: int = 7) -> tuple[Tensor, Tensor]:
        """Return pixel values or token ids, and a mask: texts have different lengths, images are not padded."""
        generator = torch.Generator().manual_seed(0)
        if self.modality == "image":
            pixels = torch.randn(5, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
            return pixels, torch.ones(5, 1, dtype=torch.bool)
        ids = torch.randint(3, END, (5, length), generator=generator)
        lengths = torch.tensor([length, 2, length - 1, 3, length])
        mask = torch.arange(length)[None] < lengths[:, None]
        ids[torch.arange(5), lengths - 1] = END
        return ids.masked_fill(~mask, self.pad_id), mask

    def output(self, model: Any, inputs: Tensor, mask: Tensor) -> Any:
        """Return the output of the whole model."""
        return model(inputs) if self.modality == "image" else model(inputs, attention_mask=mask.long())

    def layer_calls(self, model: Any, inputs: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the input and output of every layer when the whole model runs."""
        calls: list[tuple[Tensor, Tensor]] = []

        def record(_: Any, arguments: Any, named: Any, output: Any) -> None:
            rows = arguments[0] if arguments else named["hidden_states"]
            calls.append((rows, output[0] if isinstance(output, tuple) else output))

        handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in self.layers_of(model)]
        try:
            self.output(model, inputs, mask)
        finally:
            for handle in handles:
                handle.remove()
        return calls


def _image(config_class: Any, **options: Any) -> Callable[[int, int, int], Any]:
    def config(num_layers: int, width: int, heads: int) -> Any:
        sizes = {"mlp_ratio": 2} if "mlp_ratio" in options else {"intermediate_size": 2 * width}
        return config_class(
            hidden_size=width,
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            image_size=16,
            patch_size=8,
            attn_implementation="sdpa",
            **{**sizes, **options},
        )

    return config


def _text(config_class: Any, *, attention: str = "sdpa", **options: Any) -> Callable[[int, int, int], Any]:
    def config(num_layers: int, width: int, heads: int) -> Any:
        return config_class(
            **{
                "vocab_size": VOCABULARY,
                "hidden_size": width,
                "num_hidden_layers": num_layers,
                "num_attention_heads": heads,
                "intermediate_size": 2 * width,
                "max_position_embeddings": POSITIONS,
                "attn_implementation": attention,
                **options,
            }
        )

    return config


def _distilbert(num_layers: int, width: int, heads: int) -> DistilBertConfig:
    config_class: Any = DistilBertConfig  # its annotations omit attn_implementation
    config: DistilBertConfig = config_class(
        vocab_size=VOCABULARY,
        dim=width,
        n_layers=num_layers,
        n_heads=heads,
        hidden_dim=2 * width,
        max_position_embeddings=POSITIONS,
        attn_implementation="sdpa",
    )
    return config


def _first(output: Any) -> Tensor:
    rows: Tensor = output.last_hidden_state[:, 0]
    return rows


def _pooler_output(output: Any) -> Tensor:
    rows: Tensor = output.pooler_output
    return rows


def _normed_first(model: Any, rows: Tensor, mask: Tensor, *, norm: str) -> Tensor:
    normed: Tensor = getattr(model, norm)(rows[:, 0])
    return normed


def _cls(model: Any, rows: Tensor, mask: Tensor) -> Tensor:
    return rows[:, 0]


_normed = partial(_normed_first, norm="layernorm")
_dinov2: dict[str, Any] = {"mlp_ratio": 2, "layerscale_value": 0.5}
_clip_text: dict[str, Any] = {"bos_token_id": 48, "pad_token_id": END}


def _clip_readout(model: Any, rows: Tensor, mask: Tensor) -> Tensor:
    normed: Tensor = model.final_layer_norm(_last_of_each(rows, mask))
    return normed


IMAGE_FAMILIES = [
    TinyFamily("vit", _image(ViTConfig), "layers", _normed, _first),
    TinyFamily("deit", _image(DeiTConfig), "layers", _normed, _first),
    TinyFamily("dinov2", _image(Dinov2Config, **_dinov2), "encoder.layer", _normed, _pooler_output),
    TinyFamily(
        "dinov2",
        _image(Dinov2Config, **_dinov2, use_swiglu_ffn=True),
        "encoder.layer",
        _normed,
        _pooler_output,
        name="dinov2 with SwiGLU",
    ),
    TinyFamily(
        "dinov2_with_registers",
        _image(Dinov2WithRegistersConfig, **_dinov2),
        "encoder.layer",
        _normed,
        _pooler_output,
    ),
    TinyFamily(
        "clip_vision_model",
        _image(CLIPVisionConfig),
        "encoder.layers",
        partial(_normed_first, norm="post_layernorm"),
        _pooler_output,
    ),
    TinyFamily(
        "siglip_vision_model",
        _image(SiglipVisionConfig),
        "encoder.layers",
        lambda model, rows, mask: model.head(model.post_layernorm(rows)),
        _pooler_output,
    ),
    TinyFamily(
        "siglip_vision_model",
        _image(SiglipVisionConfig, vision_use_head=False),
        "encoder.layers",
        lambda model, rows, mask: model.post_layernorm(rows).mean(dim=1),
        lambda output: output.last_hidden_state.mean(dim=1),
        name="siglip_vision_model without its head",
    ),
]

TEXT_FAMILIES = [
    TinyFamily("bert", _text(BertConfig), "encoder.layer", _cls, _first),
    TinyFamily(
        "roberta",
        _text(RobertaConfig, pad_token_id=1, max_position_embeddings=POSITIONS + 2),
        "encoder.layer",
        _cls,
        _first,
        pad_id=1,
    ),
    TinyFamily("electra", _text(ElectraConfig, embedding_size=16), "encoder.layer", _cls, _first),
    TinyFamily(
        "electra",
        _text(ElectraConfig, embedding_size=10),
        "encoder.layer",
        _cls,
        _first,
        name="electra with narrow embeddings",
    ),
    TinyFamily("distilbert", _distilbert, "transformer.layer", _cls, _first),
    TinyFamily(
        "mpnet",
        # This family only has eager attention; its softmax keeps the dtype.
        _text(MPNetConfig, attention="eager", max_position_embeddings=POSITIONS + 2),
        "encoder.layer",
        _cls,
        _first,
        _relative,
        pad_id=1,
    ),
    TinyFamily(
        "clip_text_model",
        _text(CLIPTextConfig, eos_token_id=END, **_clip_text),
        "encoder.layers",
        _clip_readout,
        _pooler_output,
        _causal,
        pad_id=END,
    ),
    TinyFamily(
        "clip_text_model",
        # Configurations from before 2023 have a wrong end-of-text id; transformers then uses the highest id.
        _text(CLIPTextConfig, eos_token_id=2, **_clip_text),
        "encoder.layers",
        _clip_readout,
        _pooler_output,
        _causal,
        pad_id=END,
        name="clip_text_model of an old checkpoint",
    ),
]

ALL_FAMILIES = IMAGE_FAMILIES + TEXT_FAMILIES


def clip_model(*, vocabulary: int = VOCABULARY, end: int = END) -> CLIPModel:
    """Return a model with both encoders.

    Args:
        vocabulary: The number of token ids.
        end: The id of the last token of every text.
    """
    torch.manual_seed(2)
    image = _image(CLIPVisionConfig)(3, 24, 3)
    options = {**_clip_text, "vocab_size": vocabulary, "eos_token_id": end, "pad_token_id": end}
    text = _text(CLIPTextConfig, **options)(2, 16, 2)
    config = CLIPConfig(vision_config=image.to_dict(), text_config=text.to_dict(), projection_dim=8)
    model: Any = perturbed(CLIPModel(config))
    return cast(CLIPModel, model.eval())


def siglip_model() -> SiglipModel:
    """Return a model with both encoders."""
    torch.manual_seed(3)
    text = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "max_position_embeddings": POSITIONS, "bos_token_id": 48, "eos_token_id": END}
    config = SiglipConfig(vision_config=_image(SiglipVisionConfig)(3, 24, 3).to_dict(), text_config=text)
    model: Any = perturbed(SiglipModel(config))
    return cast(SiglipModel, model.eval())
