"""Masked-LM heads: from token states to logits over the vocabulary, as checkpoints have them or tied to the input."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from retrieval_kd.contracts import UserError
from retrieval_kd.functional.dropout import quicken_dropout
from retrieval_kd.students.backbone import keep_first_layers, load_encoder

log = logging.getLogger(__name__)


class Transform(nn.Module):
    """What BERT and its kin do to a state before they decode it."""

    def __init__(self, dense: nn.Linear, activation: nn.Module, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.dense = dense
        self.activation = activation
        self.norm = norm

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.norm(self.activation(self.dense(states)))


class MlmHead(nn.Module):
    """Logits are ``transform(states) @ decoder_weight.T + bias``; the product is left to whoever pools it.

    A tied decoder is the encoder's input embedding itself. It is the encoder's parameter, and looked up there, so that
    it exists once wherever parameters are listed, and follows the encoder to other devices.
    """

    decoder: nn.Parameter | None

    def __init__(
        self, transform: nn.Module, bias: nn.Parameter, decoder: nn.Parameter | None, embeddings: nn.Embedding
    ) -> None:
        super().__init__()
        self.transform = transform
        self.bias = bias
        self.register_parameter("decoder", decoder)
        self._embeddings = (embeddings,)  # in a tuple, modules are not registered

    @property
    def decoder_weight(self) -> Tensor:
        """[V, D]."""
        return self._embeddings[0].weight if self.decoder is None else self.decoder

    @property
    def tied(self) -> bool:
        """Whether the decoder is the encoder's input embedding."""
        return self.decoder is None


@dataclass(frozen=True)
class _Layout:
    """Where an architecture keeps the parts of its head."""

    transform: Transform
    decoder: nn.Linear


def tied_head(encoder: PreTrainedModel, name: str) -> MlmHead:
    """A head for an encoder that has none: its input embeddings, identity transform, zero bias."""
    embeddings: Any = encoder.get_input_embeddings()
    size, width = embeddings.weight.shape
    if width != encoder.config.hidden_size:
        raise UserError(
            f"encoder.name={name}: its input embeddings have {width} dimensions and its states "
            f"{encoder.config.hidden_size}, so they cannot be tied; a checkpoint with a masked-LM head would fit"
        )
    return MlmHead(nn.Identity(), nn.Parameter(torch.zeros(size)), None, embeddings)


def load_with_head(name: str | Path, layers: int | None = None) -> tuple[PreTrainedModel, MlmHead]:
    """Encoder and masked-LM head of a checkpoint, in float32; without one, a head tied to the input embeddings."""
    model, loaded = _load(name)
    missing = set(loaded["missing_keys"])
    layout = _layout(model) if model is not None else None
    absent = {key for key in missing if model is None or not key.startswith(f"{model.base_model_prefix}.")}
    if model is None or layout is None or _is_absent(model, layout, absent):
        log.info("%s has no masked-LM head: one is tied to its input embeddings, with a bias of zero", name)
        plain = load_encoder(name, layers)
        return plain, tied_head(plain, str(name))
    if missing:  # they would be random numbers, and nobody would know
        raise UserError(f"encoder.name={name}: its checkpoint lacks {len(missing)} weights, first {min(missing)}")
    encoder: Any = model.base_model
    if layers is not None:
        keep_first_layers(encoder, layers)
    quicken_dropout(encoder)
    encoder.eval()
    embeddings: Any = encoder.get_input_embeddings()
    weight: Any = layout.decoder.weight
    bias: Any = layout.decoder.bias
    if bias is None:
        bias = nn.Parameter(torch.zeros(len(weight)))
    return encoder, MlmHead(layout.transform, bias, None if weight is embeddings.weight else weight, embeddings)


def masked_lm(encoder: PreTrainedModel, head: MlmHead) -> PreTrainedModel:
    """The Hugging Face model of an encoder and its head, with copies of their weights, to be saved.

    Only what ``load_with_head`` found in a checkpoint has one: no architecture has a head with an identity transform.
    """
    config = copy.deepcopy(encoder.config)
    config.tie_word_embeddings = head.tied
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    layout = _layout(model)
    if layout is None or layout.decoder.bias is None or not isinstance(head.transform, Transform):
        raise ValueError(f"{encoder.config.model_type} has no masked-LM model with this head")
    model.base_model.load_state_dict(encoder.state_dict())
    layout.transform.load_state_dict(head.transform.state_dict())
    with torch.no_grad():
        layout.decoder.weight.copy_(head.decoder_weight)
        layout.decoder.bias.copy_(head.bias)
    return model.eval()


def _load(name: str | Path) -> tuple[PreTrainedModel | None, dict[str, Any]]:
    """None where nothing here is a masked LM; what else may be wrong is told when the encoder is loaded."""
    nothing: dict[str, Any] = {"missing_keys": []}
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is looked at here
    try:
        config = AutoConfig.from_pretrained(str(name))
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            return None, nothing
        with torch.random.fork_rng(devices=[]):  # a head that is missing is drawn, and thrown away
            return AutoModelForMaskedLM.from_pretrained(
                str(name), config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        log.debug("%s is not loaded as a masked LM: %s", name, error)
        return None, nothing
    finally:
        transformers_logging.set_verbosity(verbosity)


def _layout(model: Any) -> _Layout | None:
    """The parts of the head, by the names of BERT, DistilBERT, RoBERTa and ModernBERT and their kin."""
    if hasattr(model, "cls") and hasattr(model.cls, "predictions"):
        head = model.cls.predictions
        inner = head.transform
        return _Layout(Transform(inner.dense, inner.transform_act_fn, inner.LayerNorm), head.decoder)
    if hasattr(model, "vocab_transform"):
        return _Layout(
            Transform(model.vocab_transform, model.activation, model.vocab_layer_norm), model.vocab_projector
        )
    if hasattr(model, "lm_head") and hasattr(model.lm_head, "layer_norm"):
        head = model.lm_head
        return _Layout(Transform(head.dense, nn.GELU(), head.layer_norm), head.decoder)
    if hasattr(model, "head") and hasattr(model, "decoder"):
        return _Layout(Transform(model.head.dense, model.head.act, model.head.norm), model.decoder)
    return None


def _is_absent(model: PreTrainedModel, layout: _Layout, missing: set[str]) -> bool:
    """Whether the checkpoint has nothing at all of the transform."""
    own = {id(value) for value in layout.transform.parameters()}
    return {key for key, value in model.named_parameters() if id(value) in own} <= missing
