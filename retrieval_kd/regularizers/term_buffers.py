"""Buffers with an entry for each term: how many there are, the first batch tells, or a checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


def register_term_buffers(module: nn.Module, *names: str) -> None:
    """Register buffers, empty so far, that take whatever length a loaded state has."""
    for name in names:
        module.register_buffer(name, torch.empty(0))
    module.register_load_state_dict_pre_hook(partial(_take_length, names))


def _take_length(names: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in names:
        if prefix + name in state:
            setattr(module, name, getattr(module, name).new_empty(state[prefix + name].shape))
