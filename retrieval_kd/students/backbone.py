"""Hugging Face encoders as students start from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.functional.dropout import quicken_dropout


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.name={name}: no tokenizer there ({_first_line(error)})") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without vocabulary
        raise UserError(f"encoder.name={name}: no tokenizer there (its vocabulary is empty)")
    return tokenizer


def check_positions(encoder: PreTrainedModel, sides: Mapping[Side, SideSettings]) -> None:
    """Refuse lengths that the encoder has no positions for, before anything is encoded."""
    positions = getattr(encoder.config, "max_position_embeddings", None) or -1
    for side, settings in sides.items():
        if 0 < positions < settings.max_length:
            kind = encoder.config.model_type
            raise UserError(
                f"student.{side.value}.max_length={settings.max_length}: {kind} has {positions} positions; at most"
                f" student.{side.value}.max_length={positions} would fit"
            )


def load_encoder(name: str | Path, layers: int | None = None) -> PreTrainedModel:
    """Any Hugging Face encoder, in float32 whatever the checkpoint holds, of which the first ``layers`` are kept."""
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a base encoder from a checkpoint with a head is what we ask for
    try:
        config = AutoConfig.from_pretrained(str(name))
        encoder: PreTrainedModel
        encoder, loaded = AutoModel.from_pretrained(
            str(name), config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"encoder.name={name}: cannot be loaded from safetensors ({_first_line(error)})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:  # they would be random numbers, and nobody would know
        raise UserError(f"encoder.name={name}: its checkpoint lacks {len(missing)} weights, first {missing[0]}")
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)  # unused, and a parameter without a gradient stops DDP
    if layers is not None:
        keep_first_layers(encoder, layers)
    quicken_dropout(encoder)
    return encoder


def keep_first_layers(encoder: PreTrainedModel, layers: int) -> None:
    """Drop all but the first ``layers`` blocks, and say so in the encoder's own configuration."""
    depth = encoder.config.num_hidden_layers
    if not 1 <= layers <= depth:
        raise UserError(f"encoder.layers={layers}: {encoder.config.model_type} here has {depth}; give 1 to {depth}")
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                setattr(module, name, child[:layers])
                encoder.config.num_hidden_layers = layers
                if getattr(encoder.config, "layer_types", None):
                    encoder.config.layer_types = encoder.config.layer_types[:layers]
                return
    raise UserError(f"encoder.layers={layers}: found no list of {depth} blocks in {encoder.config.model_type}")


def weights_digest(module: nn.Module) -> str:
    """Sha256 over names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
