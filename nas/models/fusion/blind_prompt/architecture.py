"""The architectures of BlindPrompt. Imports no torch."""

from dataclasses import dataclass

from nas.models.fusion.prompt_fuse.architecture import PromptFuseArchitecture


@dataclass(frozen=True)
class BlindPromptArchitecture(PromptFuseArchitecture):
    """As in PromptFuse, with prompts that the data does not attend to."""

    family = "blind_prompt"
    title = "BlindPrompt"
    source = (
        "BlindPrompt (Liang et al., Findings of ACL 2022): PromptFuse with prompts that the data does not attend to."
    )
