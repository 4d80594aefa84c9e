"""The architectures of P-BERT. Imports no torch."""

from nas.models.fusion.base_architectures import DeeplyPromptedArchitecture


class PBERTArchitecture(DeeplyPromptedArchitecture):
    """Prompts in the layers of the frozen text encoder."""

    family = "p_bert"
    title = "P-BERT"
    source = "Deep prompt tuning (Liu et al., ACL 2022): learned prompts in the layers of the frozen text encoder."
    layers_counted = "of the text encoder"
    prompted = "text"
