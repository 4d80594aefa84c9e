"""The fusion families of this package, one registration each. Imports no torch."""

from nas.search.space.family_registry import register_family


def register() -> None:
    """Register all built-in fusion families, in their order in tables."""
    fusion = "nas.models.fusion"
    register_family("pmf", architecture=f"{fusion}.pmf.architecture:PMFArchitecture", model=f"{fusion}.pmf.model:PMF")
    register_family(
        "image_only",
        architecture=f"{fusion}.image_only.architecture:ImageOnlyArchitecture",
        model=f"{fusion}.image_only.model:ImageOnly",
    )
    register_family(
        "text_only",
        architecture=f"{fusion}.text_only.architecture:TextOnlyArchitecture",
        model=f"{fusion}.text_only.model:TextOnly",
    )
    register_family("vpt", architecture=f"{fusion}.vpt.architecture:VPTArchitecture", model=f"{fusion}.vpt.model:VPT")
    register_family(
        "p_bert", architecture=f"{fusion}.p_bert.architecture:PBERTArchitecture", model=f"{fusion}.p_bert.model:PBERT"
    )
    register_family(
        "linear", architecture=f"{fusion}.linear.architecture:LinearArchitecture", model=f"{fusion}.linear.model:Linear"
    )
    register_family(
        "bilinear",
        architecture=f"{fusion}.bilinear.architecture:BilinearArchitecture",
        model=f"{fusion}.bilinear.model:Bilinear",
    )
    register_family(
        "late_concat",
        architecture=f"{fusion}.late_concat.architecture:LateConcatArchitecture",
        model=f"{fusion}.late_concat.model:LateConcat",
    )
    register_family(
        "mmbt", architecture=f"{fusion}.mmbt.architecture:MMBTArchitecture", model=f"{fusion}.mmbt.model:MMBT"
    )
    register_family("mbt", architecture=f"{fusion}.mbt.architecture:MBTArchitecture", model=f"{fusion}.mbt.model:MBT")
    register_family(
        "prompt_fuse",
        architecture=f"{fusion}.prompt_fuse.architecture:PromptFuseArchitecture",
        model=f"{fusion}.prompt_fuse.model:PromptFuse",
    )
    register_family(
        "blind_prompt",
        architecture=f"{fusion}.blind_prompt.architecture:BlindPromptArchitecture",
        model=f"{fusion}.blind_prompt.model:BlindPrompt",
    )
    _register_fusion_transformers(fusion)
    _register_dual_encoders(fusion)


def _register_fusion_transformers(fusion: str) -> None:
    """Register the families that fuse both modalities in the layers of transformers, as their papers pretrain them."""
    register_family(
        "albef", architecture=f"{fusion}.albef.architecture:ALBEFArchitecture", model=f"{fusion}.albef.model:ALBEF"
    )
    register_family(
        "vlmo", architecture=f"{fusion}.vlmo.architecture:VLMoArchitecture", model=f"{fusion}.vlmo.model:VLMo"
    )
    register_family("vse", architecture=f"{fusion}.vse.architecture:VSEArchitecture", model=f"{fusion}.vse.model:VSE")
    register_family(
        "vilbert",
        architecture=f"{fusion}.vilbert.architecture:ViLBERTArchitecture",
        model=f"{fusion}.vilbert.model:ViLBERT",
    )
    register_family(
        "uniter",
        architecture=f"{fusion}.uniter.architecture:UNITERArchitecture",
        model=f"{fusion}.uniter.model:UNITER",
    )
    register_family(
        "vilt", architecture=f"{fusion}.vilt.architecture:ViLTArchitecture", model=f"{fusion}.vilt.model:ViLT"
    )


def _register_dual_encoders(fusion: str) -> None:
    """Register the families that compare images with the texts of the classes."""
    register_family(
        "clip_zero_shot",
        architecture=f"{fusion}.clip_zero_shot.architecture:CLIPZeroShotArchitecture",
        model=f"{fusion}.clip_zero_shot.model:CLIPZeroShot",
    )
    register_family(
        "coop", architecture=f"{fusion}.coop.architecture:CoOpArchitecture", model=f"{fusion}.coop.model:CoOp"
    )
    register_family(
        "vpt_clip",
        architecture=f"{fusion}.vpt_clip.architecture:VPTCLIPArchitecture",
        model=f"{fusion}.vpt_clip.model:VPTCLIP",
    )
    register_family(
        "maple", architecture=f"{fusion}.maple.architecture:MaPLeArchitecture", model=f"{fusion}.maple.model:MaPLe"
    )
