"""The linear layer between token states and token vectors: a checkpoint's own, or a new one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from retrieval_kd.contracts import UserError

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
LINEAR = "linear.weight"
SEED = 0


def load_projection(checkpoint: str | Path, width: int, dimensions: int) -> nn.Linear:
    """[width] to [dimensions] without bias; a new one keeps angles as well as so few dimensions can."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, width, dimensions, bias=False)
    weight = find_projection(checkpoint)
    if weight is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            nn.init.orthogonal_(layer.weight)
        log.info(
            "%s has no projection of its tokens: a new one to %d dimensions (seed %d)", checkpoint, dimensions, SEED
        )
        return layer
    if weight.shape != layer.weight.shape:
        found = f"a projection from {weight.shape[1]} to {weight.shape[0]} dimensions"
        raise UserError(
            f"student.dimensions={dimensions}: {checkpoint} has {found}; student.dimensions={weight.shape[0]} would fit"
        )
    layer.weight.data.copy_(weight)
    return layer


def find_projection(checkpoint: str | Path) -> Tensor | None:
    """What Stanford's folders have beside the encoder, and others in a module behind it; None where there is none."""
    path = _file(checkpoint, WEIGHTS)
    weight = None if path is None else _tensor(path, LINEAR)
    if weight is not None:
        return weight
    modules: Sequence[dict[str, Any]] = _json(_file(checkpoint, "modules.json")) or []
    if len(modules) < 2 or modules[1]["type"].rsplit(".", 1)[-1] != "Dense":  # elsewhere it is of pooled vectors
        return None
    return dense_weight(checkpoint, modules[1]["path"])


def dense_weight(checkpoint: str | Path, folder: str) -> Tensor:
    """The weights of a linear module that is nothing but a product."""
    settings = _json(_file(checkpoint, f"{folder}/config.json")) or {}
    activation = str(settings.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    if settings.get("bias") or settings.get("use_residual") or activation != "Identity":
        raise UserError(f"{checkpoint}/{folder}: a projection with bias, residual or {activation}; read are plain ones")
    path = _file(checkpoint, f"{folder}/{WEIGHTS}")
    weight = None if path is None else _tensor(path, LINEAR)
    if weight is None:
        raise UserError(f"{checkpoint}/{folder}: no safetensors with {LINEAR}")
    return weight


def _tensor(path: Path, name: str) -> Tensor | None:
    try:
        with safe_open(path, "pt") as tensors:
            return tensors.get_tensor(name).float() if name in tensors.keys() else None  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no safetensors ({error})") from error


def _file(checkpoint: str | Path, name: str) -> Path | None:
    """In a folder or on the hub."""
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(str(checkpoint), name, **missing)
    return None if found is None else Path(found)


def _json(path: Path | None) -> Any:
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))
