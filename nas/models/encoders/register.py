"""The encoder families of this package, one registration each. Imports no torch."""

from nas.models.encoders.registry import register_dual_encoder, register_encoder


def register() -> None:
    """Register all built-in encoder families."""
    package, without_pooler = "nas.models.encoders", {"add_pooling_layer": False}
    register_encoder(
        "vit",
        modality="image",
        model="transformers:ViTModel",
        encoder=f"{package}.vit:ViTEncoder",
        options=without_pooler,
    )
    register_encoder(
        "deit",
        modality="image",
        model="transformers:DeiTModel",
        encoder=f"{package}.vit:ViTEncoder",
        options=without_pooler,
    )
    register_encoder(
        "dinov2", modality="image", model="transformers:Dinov2Model", encoder=f"{package}.dinov2:Dinov2Encoder"
    )
    register_encoder(
        "dinov2_with_registers",
        modality="image",
        model="transformers:Dinov2WithRegistersModel",
        encoder=f"{package}.dinov2:Dinov2Encoder",
    )
    register_encoder(
        "clip_vision_model",
        modality="image",
        model="transformers:CLIPVisionModel",
        encoder=f"{package}.clip:CLIPVisionEncoder",
    )
    register_encoder(
        "siglip_vision_model",
        modality="image",
        model="transformers:SiglipVisionModel",
        encoder=f"{package}.siglip:SiglipVisionEncoder",
    )
    register_encoder(
        "bert",
        modality="text",
        model="transformers:BertModel",
        encoder=f"{package}.bert:BertEncoder",
        options=without_pooler,
    )
    register_encoder(
        "roberta",
        modality="text",
        model="transformers:RobertaModel",
        encoder=f"{package}.bert:RobertaEncoder",
        options=without_pooler,
    )
    register_encoder(
        "electra", modality="text", model="transformers:ElectraModel", encoder=f"{package}.bert:ElectraEncoder"
    )
    register_encoder(
        "distilbert",
        modality="text",
        model="transformers:DistilBertModel",
        encoder=f"{package}.distilbert:DistilBertEncoder",
        activation="activation",
    )
    register_encoder(
        "mpnet",
        modality="text",
        model="transformers:MPNetModel",
        encoder=f"{package}.mpnet:MPNetEncoder",
        options=without_pooler,
    )
    register_encoder(
        "clip_text_model",
        modality="text",
        model="transformers:CLIPTextModel",
        encoder=f"{package}.clip:CLIPTextEncoder",
    )
    register_dual_encoder("clip", {"image": "vision_config", "text": "text_config"})
    register_dual_encoder("siglip", {"image": "vision_config"})
