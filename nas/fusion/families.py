"""All fusion families, by the name that search files have for them."""

from collections.abc import Mapping

from nas.fusion.base import FusionModel
from nas.fusion.blind_prompt import BlindPrompt
from nas.fusion.image_only import ImageOnly
from nas.fusion.late_concat import LateConcat
from nas.fusion.linear import Linear
from nas.fusion.mbt import MBT
from nas.fusion.mmbt import MMBT
from nas.fusion.p_bert import PBERT
from nas.fusion.pmf import PMF
from nas.fusion.prompt_fuse import PromptFuse
from nas.fusion.text_only import TextOnly
from nas.fusion.vpt import VPT

FAMILIES: Mapping[str, type[FusionModel]] = {
    model.kind.family: model
    for model in (
        PMF,
        ImageOnly,
        TextOnly,
        VPT,
        PBERT,
        Linear,
        LateConcat,
        MMBT,
        MBT,
        PromptFuse,
        BlindPrompt,
    )
}
"""Name → model; a family is added as one file here, its genes in `nas/families.py`, and an entry in both lists."""
