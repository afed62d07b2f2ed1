"""Dropout that is cheap on a CPU: there torch draws one random number for each value, one after another.

A fifth of a training step went into that, most of it on attention weights. Here every 64 random bits decide about four
values, which rounds the probability to a multiple of 2^-16. Masks depend on torch's seed as those of torch do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEVELS = 1 << 16
ATTENTION = "retrieval_kd"  # the name under which transformers finds the attention below


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, probability: float) -> Tensor:
        level = round(probability * LEVELS)
        ctx.scale = LEVELS / (LEVELS - level)
        dropped = _random_levels(value.numel()).view(value.shape) < level - LEVELS // 2
        ctx.save_for_backward(dropped)
        return (value * ctx.scale).masked_fill_(dropped, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (dropped,) = ctx.saved_tensors
        return (gradients[0] * ctx.scale).masked_fill_(dropped, 0.0), None


def _random_levels(count: int) -> Tensor:
    """int16 [count], uniform over all of its values, from a generator that torch's own seeds."""
    seed = int(torch.randint(2**63 - 1, ()))
    bits: np.ndarray = np.random.SFC64(seed).random_raw(math.ceil(count / 4))
    return torch.from_numpy(bits.view(np.int16))[:count]


def dropout(value: Tensor, probability: float) -> Tensor:
    """Zero values with a probability below 1 and scale up the others, as training does."""
    if probability <= 0.0 or value.device.type != "cpu":
        return nn.functional.dropout(value, probability)
    dropped: Tensor = _Dropped.apply(value, probability)  # type: ignore[no-untyped-call]
    return dropped


class QuickDropout(nn.Dropout):
    """``nn.Dropout`` by ``dropout``."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A process that a model is sent to must know the attention that it names."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _register()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Dropout gives it
        """Identity outside training."""
        return dropout(input, self.p) if self.training else input


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, probability: float, scaling: float
) -> Tensor:
    """Attention [N, L, heads, D] of [N, heads, L, D] states, its weights under ``dropout``."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = dropout(scores.softmax(-1), probability).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous()


def quicken_dropout(model: Any) -> None:
    """Give a Hugging Face model this dropout, in its layers and on its attention weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, QuickDropout(child.p))
    if model.config._attn_implementation == "sdpa":
        _register()
        model.set_attn_implementation(ATTENTION)


def _register() -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        probability = options.get("dropout") or 0.0
        causal = options.get("is_causal", getattr(module, "is_causal", True)) and attention_mask is None
        plain = query.shape == key.shape and not causal and options.get("position_bias") is None
        if not probability or query.device.type != "cpu" or not plain:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        return attention(query, key, value, attention_mask, probability, scaling), None

    AttentionInterface.register(ATTENTION, forward)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
