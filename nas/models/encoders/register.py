"""The encoder families of this package, one registration each. Imports no torch."""

from nas.models.encoders.registry import register_dual_encoder, register_encoder

_PACKAGE = "nas.models.encoders"
_NO_POOLER = {"add_pooling_layer": False}


def register() -> None:
    """Register all built-in encoder families."""
    _register_image_encoders()
    _register_text_encoders()
    register_dual_encoder("clip", {"image": "vision_config", "text": "text_config"})
    register_dual_encoder(
        "siglip",
        {"image": "vision_config"},
        reasons={
            "text": "its text encoder is not supported, since it was trained to read padding up to a fixed length as "
            "tokens, and texts have none here"
        },
    )


def _register_image_encoders() -> None:
    register_encoder(
        "vit",
        modality="image",
        model="transformers:ViTModel",
        encoder=f"{_PACKAGE}.vit:ViTEncoder",
        options=_NO_POOLER,
    )
    register_encoder(
        "deit",
        modality="image",
        model="transformers:DeiTModel",
        encoder=f"{_PACKAGE}.vit:ViTEncoder",
        options=_NO_POOLER,
    )
    register_encoder(
        "dinov2", modality="image", model="transformers:Dinov2Model", encoder=f"{_PACKAGE}.dinov2:Dinov2Encoder"
    )
    register_encoder(
        "dinov2_with_registers",
        modality="image",
        model="transformers:Dinov2WithRegistersModel",
        encoder=f"{_PACKAGE}.dinov2:Dinov2Encoder",
    )
    register_encoder(
        "clip_vision_model",
        modality="image",
        model="transformers:CLIPVisionModel",
        encoder=f"{_PACKAGE}.clip:CLIPVisionEncoder",
    )
    register_encoder(
        "siglip_vision_model",
        modality="image",
        model="transformers:SiglipVisionModel",
        encoder=f"{_PACKAGE}.siglip:SiglipVisionEncoder",
    )


def _register_text_encoders() -> None:
    register_encoder(
        "bert",
        modality="text",
        model="transformers:BertModel",
        encoder=f"{_PACKAGE}.bert:BertEncoder",
        options=_NO_POOLER,
    )
    register_encoder(
        "roberta",
        modality="text",
        model="transformers:RobertaModel",
        encoder=f"{_PACKAGE}.bert:RobertaEncoder",
        options=_NO_POOLER,
    )
    register_encoder(
        "electra", modality="text", model="transformers:ElectraModel", encoder=f"{_PACKAGE}.bert:ElectraEncoder"
    )
    register_encoder(
        "distilbert",
        modality="text",
        model="transformers:DistilBertModel",
        encoder=f"{_PACKAGE}.distilbert:DistilBertEncoder",
        activation="activation",
    )
    register_encoder(
        "mpnet",
        modality="text",
        model="transformers:MPNetModel",
        encoder=f"{_PACKAGE}.mpnet:MPNetEncoder",
        options=_NO_POOLER,
    )
    register_encoder(
        "clip_text_model",
        modality="text",
        model="transformers:CLIPTextModel",
        encoder=f"{_PACKAGE}.clip:CLIPTextEncoder",
    )
