"""The registry of encoder families."""

import subprocess
import sys

import pytest

from nas.common.errors import ExtensionError
from nas.models.encoders.bert import BertEncoder
from nas.models.encoders.registry import encoder_family, register_encoder, supported_model_types

LISTED = """
import sys
from nas.models.encoders.registry import supported_model_types
print(*supported_model_types("image"), *supported_model_types("text"))
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_families_are_listed_without_importing_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*supported_model_types("image"), *supported_model_types("text")]


def test_dual_checkpoints_are_supported_for_the_modalities_that_they_declare() -> None:
    assert {"clip", "siglip", "vit"} < set(supported_model_types("image"))
    assert {"clip", "bert"} < set(supported_model_types("text")) and "siglip" not in supported_model_types("text")


def test_a_family_names_its_classes() -> None:
    family = encoder_family("bert")
    assert family.modality == "text" and family.load_encoder_class() is BertEncoder
    assert family.load_model_class().__name__ == "BertModel"


def test_dual_checkpoint_is_no_family() -> None:
    with pytest.raises(KeyError, match="'clip' holds two encoders; expected the model_type of one of them"):
        encoder_family("clip")


def test_taken_model_type_is_rejected() -> None:
    assert "vit" in supported_model_types("image")
    with pytest.raises(ExtensionError, match="encoder family 'vit': the name is taken"):
        register_encoder("vit", modality="image", model="toy:Model", encoder="toy:Encoder")
