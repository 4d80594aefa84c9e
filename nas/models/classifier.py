"""A fusion model as a Hugging Face model: raw images and texts in, class logits out, loaded by `from_pretrained`."""

import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from nas.common.errors import ExportError
from nas.common.seals import SEALS
from nas.models.changes import BuiltModules
from nas.models.class_texts import ClassTexts
from nas.models.encoders.checkpoints import build_encoder
from nas.models.encoders.folder_check import check_folder
from nas.models.encoders.pretrained import config_of, silence_transformers
from nas.models.encoders.tracing import have_values, is_traced
from nas.models.fusion.base import FusionModel, features_of_each
from nas.models.fusion.ensemble import mean_logits
from nas.models.fusion.model_classes import load_model_class
from nas.models.inputs import check_options, check_pixels, check_texts, refuse_onnx_export, requested_outputs
from nas.models.model_seals import model_changes, seal_model
from nas.search.space import RAW, Architecture

MULTI_LABEL: Literal["multi_label_classification"] = "multi_label_classification"
"""The `problem_type` of transformers for samples with any number of labels."""

CLASSIFICATION, RETRIEVAL = "classification", "retrieval"
"""The tasks of exported models."""

_HUB_OPTIONS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr", "commit_description", "tags")


class FusionConfig(PreTrainedConfig):
    """The configurations of both encoders and the architecture of the fusion model.

    Args:
        image_config: The configuration of the image encoder as a dictionary, `model_type` included.
        text_config: The configuration of the text encoder, likewise.
        architecture: The fusion family, and its genes by name.
        max_text_tokens: The number of tokens that texts were truncated to in training.
        threshold: The probability from which a label is predicted, where a sample may have several (`problem_type` is
            `MULTI_LABEL`).
        members: The members of an ensemble, each with its `architecture` and its `weight`, which add up to 1; the first
            has the architecture above. None for a single model.
        class_texts: The token ids of the texts of the classes, of a family that reads them; see `ClassTexts.as_dict`.
        task: `classification`, or `retrieval` for a model without classes.
    """

    model_type = "multimodal_fusion"

    image_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    architecture: dict[str, Any] | None = None
    max_text_tokens: int = 512
    threshold: float = 0.5
    members: list[dict[str, Any]] | None = None
    class_texts: dict[str, Any] | None = None
    task: str = CLASSIFICATION

    def weighted_architectures(self) -> list[tuple[Architecture, float]]:
        """Return the architecture and the weight of each member; of a single model its own, with weight 1.

        Raises:
            KeyError, TypeError, ValueError: If one is no architecture.
        """
        members = self.members or [{"architecture": self.architecture, "weight": 1.0}]
        return [(Architecture.from_dict(member["architecture"]), float(member["weight"])) for member in members]

    def get_text_config(self, *arguments: Any, **options: Any) -> "FusionConfig":
        """Return this configuration: `text_config` is a dictionary, and transformers' Trainer expects an object."""
        del arguments, options
        return self


class FusionForClassification(PreTrainedModel):
    """A complete classifier of any fusion family, including the encoders that it uses.

    Of an ensemble, `fusion` is the first member and `further_members` are the others. They share the frozen encoders,
    each layer of which is computed once. The probabilities are the weighted mean of the members' (see `mean_logits`).

    The constructor gives arbitrary weights; use `from_pretrained` to load an exported model.
    """

    config_class = FusionConfig
    task = CLASSIFICATION
    main_input_name = "pixel_values"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is the mean over the batch, whatever the Trainer knows about other batches

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        if config.image_config is None or config.text_config is None or config.architecture is None:
            raise ValueError("FusionConfig: image_config, text_config or architecture is missing; expected all three")
        if config.task != self.task:
            raise ValueError(f"{type(self).__name__}: wrong model; expected one for {self.task}, got {config.task}")
        encoders = [build_encoder(config_of(values)) for values in (config.image_config, config.text_config)]
        texts = None if config.class_texts is None else ClassTexts.from_dict(config.class_texts)
        members = [
            load_model_class(architecture.family)(
                image_encoder=encoders[0],
                text_encoder=encoders[1],
                architecture=architecture,
                num_classes=int(config.num_labels or 0),
                class_texts=texts,
            )
            for architecture, _ in config.weighted_architectures()
        ]
        self.fusion, self.further_members = members[0], nn.ModuleList(members[1:])
        for name, encoder, layers in zip(
            ("image_encoder", "text_encoder"), encoders, self._entry_layers(), strict=True
        ):
            # Else it is unused, or trained as a part of the members.
            is_read = any(layer not in (None, RAW) for layer in layers)
            if is_read or (name == "text_encoder" and self.reads_class_texts):
                self.add_module(name, encoder)
        self.post_init()  # type: ignore[no-untyped-call]
        self._built = BuiltModules(self)

    @property
    def members(self) -> list[FusionModel]:
        """The members of an ensemble; of a single model, its one fusion model."""
        return [self.fusion, *cast(list[FusionModel], list(self.further_members))]

    @property
    def reads_class_texts(self) -> bool:
        """Whether a member compares images with the texts of the classes."""
        return any(member.architecture.reads_class_texts for member in self.members)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *arguments: Any, checks_files: bool = True, **options: Any
    ) -> Any:
        """Load an exported model, as for any model of transformers; encoders frozen in training are frozen again.

        Nothing that the folder brings is run: no custom code, no pickled objects.

        Args:
            pretrained_model_name_or_path: The folder of the model, or its name on the Hugging Face Hub.
            arguments: Further arguments of transformers' `from_pretrained`.
            checks_files: Whether to warn of files of the folder that were changed after the model was saved.
            options: Options of transformers' `from_pretrained`.

        Raises:
            ExportError: If the folder names custom code, or holds damaged files.
        """
        silence_transformers()
        folder = Path(str(pretrained_model_name_or_path), options.get("subfolder") or "")
        if pretrained_model_name_or_path is not None and folder.is_dir():
            check_folder(folder, ExportError)
            changes = model_changes(folder) if checks_files else None
            if changes:
                warnings.warn(f"{folder}: changed after the model was saved: {changes}", stacklevel=2)
        options = {"use_safetensors": True, **options, "trust_remote_code": False, "weights_only": True}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *arguments, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in ("image_encoder", "text_encoder"):  # loading replaces their parameters
            if hasattr(model, name):
                getattr(model, name).requires_grad_(False)
        return loaded

    def save_pretrained(self, save_directory: Any, *arguments: Any, push_to_hub: bool = False, **options: Any) -> None:
        """Save the model, as for any model of transformers, and the checksums of all files of the folder.

        Args:
            save_directory: The folder.
            arguments: Further arguments of transformers' `save_pretrained`.
            push_to_hub: Whether to upload the model afterwards, as its method `push_to_hub` does.
            options: Options of transformers' `save_pretrained`.
        """
        hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        super().save_pretrained(save_directory, *arguments, **options)
        folder = Path(save_directory)
        if options.get("is_main_process", True) and folder.is_dir():
            seal_model(folder)
            # safetensors gives its files to the user alone; the others have the mode that the umask allows.
            mode = (folder / SEALS).stat().st_mode & 0o666
            for path in folder.glob("*.safetensors"):
                path.chmod(mode)
            if push_to_hub:
                self.push_to_hub(hub.pop("repo_id", folder.absolute().name), **hub)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Classify images with their texts.

        Args:
            pixel_values: Images (B, 3, height, width), from the image processor in the model's directory; not needed by
                a family that reads no images.
            input_ids: Token ids (B, T), from the tokenizer in the model's directory; not needed by a family that reads
                no texts.
            attention_mask: (B, T), 1 or true where there is a token; by default nothing is padded. Padding before a
                text is moved behind it.
            labels: Class indices (B,), or a tensor (B, C) with 1 for each label of a sample; needed for the loss.
            token_type_ids: (B, T), zeros, which some tokenizers return.
            return_dict: False returns a tuple; the default is that of the configuration.
            options: Arguments of other models of transformers, which raise an error unless they are None or false.

        Returns:
            `logits` (B, C), and `loss` if labels are given.

        Raises:
            ValueError: If an input has a wrong shape or value.
            TypeError: If there is no such argument.
        """
        refuse_onnx_export()
        check_options({**requested_outputs(self.config), **options})
        self._rebind_replica()
        pixels, ids, mask = self._read_inputs(pixel_values, input_ids, attention_mask, token_type_ids)
        if pixels.shape[0] == 0 and have_values(pixels, ids):
            logits = pixels.new_zeros(0, self.fusion.num_classes, dtype=self._weights_dtype())
        else:
            logits = self._logits(pixels, ids, mask)
        loss = None if labels is None else self._loss(logits, labels)
        if return_dict if return_dict is not None else self.config.return_dict:
            return SequenceClassifierOutput(loss=loss, logits=logits)
        return (logits,) if loss is None else (loss, logits)

    def _logits(self, pixels: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        members, whole = self.members, self._needs_whole_layers(pixels, ids, mask)
        reads = [member.entry_layers() for member in members]
        features = features_of_each(self.fusion.encoders, reads, pixels, ids, mask, whole_layers=whole)
        logits = [member(entry) for member, entry in zip(members, features, strict=True)]
        weights = [float(member["weight"]) for member in self.config.members or [{"weight": 1.0}]]
        return mean_logits(logits, weights, has_several_labels=self.config.problem_type == MULTI_LABEL)

    def _read_inputs(
        self, pixels: Tensor | None, ids: Tensor | None, mask: Tensor | None, token_types: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check the inputs, and return pixel values, token ids and the mask; what the family does not read is empty."""
        reads_image, reads_text = (any(layer is not None for layer in layers) for layers in self._entry_layers())
        if reads_image:
            pixels = check_pixels(pixels).to(self._weights_dtype())
        if reads_text:
            encoder = self.fusion.encoders[1]
            sizes = {"max_tokens": encoder.max_text_tokens, "vocabulary": int(encoder.config.vocab_size)}
            ids, mask = check_texts(ids, mask, token_types, **sizes)
        if not reads_text:
            assert pixels is not None
            return pixels, torch.empty(pixels.shape[0], 0, dtype=torch.int64, device=pixels.device), None
        assert ids is not None
        if not reads_image:
            return torch.empty(ids.shape[0], 0, device=ids.device), ids, mask
        assert pixels is not None
        if not is_traced() and pixels.shape[0] != ids.shape[0]:
            raise ValueError(
                f"pixel_values and input_ids: expected as many images as texts, got {pixels.shape[0]} and "
                f"{ids.shape[0]}"
            )
        return pixels, ids, mask

    def _entry_layers(self) -> list[tuple[int | None, ...]]:
        """Return the layers of the image encoder that the members read, and those of the text encoder."""
        return list(zip(*(member.entry_layers() for member in self.members), strict=True))

    def _needs_whole_layers(self, pixels: Tensor, ids: Tensor, mask: Tensor | None) -> bool:
        """Return whether to run the layers of transformers themselves (see `Features.whole_layers`).

        What else the fusion models compute is exact for plain numbers and unchanged encoders, in inference.
        """
        if not have_values(pixels, ids, mask):
            return True
        if torch.is_grad_enabled() and (
            pixels.requires_grad or any(entry.requires_grad for entry in self.parameters())
        ):
            return True
        return getattr(self, "_is_replica", False) or self._built.are_changed(self)

    def _weights_dtype(self) -> torch.dtype:
        """Return the floating-point dtype of the weights."""
        weights = [*self.parameters()]
        if not weights:  # a replica of `nn.DataParallel` has tensors in place of parameters
            weights = [entry for module in self.modules() for entry in vars(module)["_former_parameters"].values()]
        return next(entry.dtype for entry in weights if entry is not None and entry.is_floating_point())

    def _rebind_replica(self) -> None:
        """Let the copies that `nn.DataParallel` makes use their own encoders."""
        if getattr(self, "_is_replica", False):
            image, text = self.fusion.encoders
            encoders = getattr(self, "image_encoder", image), getattr(self, "text_encoder", text)
            for member in self.members:
                member._encoders = encoders

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        several = self.config.problem_type == MULTI_LABEL
        expected = logits.shape if several else logits.shape[:1]
        if labels.shape != expected:
            raise ValueError(f"labels: wrong shape; expected {tuple(expected)}, got {tuple(labels.shape)}")
        if several:
            return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return cross_entropy(logits, labels.to(torch.int64))

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the token ids; of a family without texts, that of the image patches."""
        embeddings: nn.Module = self._embedded_encoder().get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the module that `get_input_embeddings` returns."""
        self._embedded_encoder().set_input_embeddings(value)

    def _embedded_encoder(self) -> Any:
        reads_text = any(layer is not None for layer in self._entry_layers()[1])
        modality = "text" if reads_text else "image"
        encoder = getattr(self, f"{modality}_encoder", None) or getattr(self.fusion, f"{modality}_encoder")
        return encoder.model

    def resize_token_embeddings(self, *arguments: Any, **options: Any) -> nn.Embedding:
        """Raise an error: new tokens would have untrained embeddings."""
        raise NotImplementedError(
            f"{type(self).__name__}: its token embeddings cannot be resized; expected the tokenizer that it was "
            "exported with"
        )


# At import, because transformers looks the type up by its name: AutoConfig can open an exported model only after this.
AutoConfig.register("multimodal_fusion", FusionConfig, exist_ok=True)
