"""The architectures of VPT. Imports no torch."""

from nas.models.fusion.base_architectures import DeeplyPromptedArchitecture


class VPTArchitecture(DeeplyPromptedArchitecture):
    """Prompts in the layers of the frozen image encoder."""

    family = "vpt"
    title = "VPT"
    source = "Visual prompt tuning (Jia et al., ECCV 2022): learned prompts in the layers of the frozen image encoder."
    layers_counted = "of the image encoder"
    prompted = "image"
