"""Sequence-classification checkpoints of the Hugging Face layout: loading them strictly and naming their content."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.files import text_digest

log = logging.getLogger(__name__)

HEAD = "ForSequenceClassification"
# Written by whoever saved the checkpoint; they change no score.
_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "pad_token_id")


def load_classifier(name: str, to_train: bool) -> tuple[PreTrainedModel, Any]:
    """Model with float32 weights and fast tokenizer; a head that the checkpoint lacks starts fresh, to be trained."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name)
            trained_head = any(kind.endswith(HEAD) for kind in config.architectures or ())
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name,
                num_labels=config.num_labels if trained_head else 1,
                dtype=torch.float32,  # by default the checkpoint's own, which may be half precision
                use_safetensors=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"cross-encoder {name}: {' '.join(str(error).split())}") from error
    _report_missing(name, model, info["missing_keys"], to_train)
    return model, _usable(name, model, tokenizer)


def check_there(name: str) -> None:
    """Refuse a name that is no model, without its weights."""
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"cross-encoder {name}: {' '.join(str(error).split())}") from error


def _report_missing(name: str, model: PreTrainedModel, missing: set[str], to_train: bool) -> None:
    if not missing:
        return
    total = len(model.state_dict())
    if len(missing) * 2 > total:
        raise UserError(
            f"cross-encoder {name}: {len(missing)} of its model's {total} weights are not in the checkpoint"
        )
    if not to_train:
        raise UserError(
            f"cross-encoder {name}: no trained classification head ({', '.join(sorted(missing))} are not in the"
            " checkpoint), its scores would be noise; train it here (the scorer's `train`) or name a reranker"
        )
    log.warning("%s has no trained classification head: %s start fresh", name, ", ".join(sorted(missing)))


def _usable(name: str, model: PreTrainedModel, tokenizer: Any) -> Any:
    if not tokenizer.is_fast:
        raise UserError(f"cross-encoder {name}: only a slow tokenizer; a fast one (tokenizer.json) is needed")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise UserError(f"cross-encoder {name}: its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:  # decoders look for the last token that is not padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def score_kind(name: str, model: PreTrainedModel) -> ScoreKind:
    """One label gives a logit, two give the log-odds of the second over the first."""
    kinds = {1: ScoreKind.LOGIT, 2: ScoreKind.LOG_ODDS}
    if model.config.num_labels not in kinds:
        raise UserError(f"cross-encoder {name}: {model.config.num_labels} labels; a reranker has 1 or 2")
    return kinds[model.config.num_labels]


def check_length(name: str, model: PreTrainedModel, tokenizer: Any, max_length: int) -> None:
    """Refuse lengths that the model has no positions for, or that leave no room for text."""
    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    limit = min(positions, tokenizer.model_max_length)
    room = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if not room <= max_length <= limit:
        raise UserError(f"cross-encoder {name}: max_length={max_length} is not within {room} and {limit}")


def classifier_digest(model: PreTrainedModel, tokenizer: Any) -> str:
    """Name weights, configuration and tokenizer: what the score of a pair of token sequences depends on."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        values = weight.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    config = {key: value for key, value in model.config.to_dict().items() if key not in _BOOKKEEPING}
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["truncation"] = backend["padding"] = None  # left behind by the last call
    description = json.dumps([type(model).__name__, config, backend], sort_keys=True, default=str)
    return text_digest(digest.hexdigest(), description)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's loading table out of the log, and its bars too where nobody watches."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
