"""The largest logit of each vocabulary entry over a text's tokens, without ever holding the logits.

A masked-LM head turns T tokens into [T, V] logits, of which max-pooling keeps one per text and entry, and a relu few of
those. Here the vocabulary goes by in chunks; what is kept is the maximum and, where it is above 0, which token's it
was. The backward pass touches those entries only. Its gradients are exact; of equal logits the first token's gets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512  # the logits of a chunk should stay in the cache
FEW = 0.04  # share of entries above 0 up to which finding their tokens one by one is faster than for all


def max_logits(states: Tensor, text: Tensor, texts: int, weight: Tensor, bias: Tensor, chunk: int = CHUNK) -> Tensor:
    """relu(max over each text's tokens of states @ weight.T + bias), [N, V] in float32 (float64 of float64).

    Args:
        states: Token states [T, D], without padding.
        text: Which text a token belongs to, [T] int64, never falling; a text without tokens gets zeros.
        texts: N.
        weight: [V, D]; may be the encoder's own input embeddings.
        bias: [V]; minus infinity silences an entry.
        chunk: Vocabulary entries at once.
    """
    product = _Product.of(states, text, texts, chunk)
    with torch.autocast(states.device.type, enabled=False):
        if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad or bias.requires_grad):
            return _Maxima.apply(states, weight, bias, product)  # type: ignore[no-untyped-call]
        return product.maxima(states, weight).add_(bias).relu_()


def max_products(states: Tensor, text: Tensor, texts: int, weight: Tensor, chunk: int = CHUNK) -> Tensor:
    """What ``max_logits`` adds its bias to: max over tokens of states @ weight.T; minus infinity without tokens."""
    product = _Product.of(states, text, texts, chunk)
    with torch.autocast(states.device.type, enabled=False):
        if torch.is_grad_enabled() and (states.requires_grad or weight.requires_grad):
            return _Maxima.apply(states, weight, None, product)  # type: ignore[no-untyped-call]
        return product.maxima(states, weight)


@dataclass(frozen=True)
class _Product:
    """Which tokens a text has, and how logits are computed."""

    text: Tensor  # [T]
    texts: int
    chunk: int
    dtype: torch.dtype  # of the factors

    @classmethod
    def of(cls, states: Tensor, text: Tensor, texts: int, chunk: int) -> _Product:
        device = states.device.type
        half = torch.is_autocast_enabled(device)
        return cls(text, texts, chunk, torch.get_autocast_dtype(device) if half else states.dtype)

    @cached_property
    def ends(self) -> Tensor:
        """[N], one past each text's last token."""
        return torch.searchsorted(self.text, torch.arange(self.texts, device=self.text.device), right=True)

    @cached_property
    def starts(self) -> Tensor:
        """[N], each text's first token."""
        return F.pad(self.ends[:-1], (1, 0))

    @cached_property
    def places(self) -> Tensor:
        """[N, L] tokens of each text; after its last one that one again, which does not change who is first."""
        longest = int((self.ends - self.starts).max())
        steps = torch.arange(longest, device=self.text.device)
        last = (self.ends - 1).clamp_min(0).unsqueeze(1)
        return torch.minimum(self.starts.unsqueeze(1) + steps, last)

    def chunks(self, states: Tensor, weight: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Of each chunk: its first entry, logits [T, c] that the next chunk may overwrite, their maxima [N, c]."""
        states = states.to(self.dtype)
        # Rounding logits to half precision makes ties; on CUDA the product itself can answer in float32.
        wide = states.device.type == "cuda" and states.itemsize < 4
        buffer = states.new_empty(0 if wide else len(states) * self.chunk)
        index = self.text.unsqueeze(1)
        for start in range(0, len(weight), self.chunk):
            part = weight[start : start + self.chunk].to(self.dtype).T
            if wide:
                logits = torch.mm(states, part, out_dtype=torch.float32)
            else:
                logits = buffer[: len(states) * part.shape[1]].view(len(states), part.shape[1])
                torch.mm(states, part, out=logits)
            none = logits.new_full((self.texts, part.shape[1]), -torch.inf)
            yield start, logits, none.scatter_reduce_(0, index.expand_as(logits), logits, "amax")

    def maxima(self, states: Tensor, weight: Tensor) -> Tensor:
        """[N, V], without bias."""
        found = states.new_empty(self.texts, len(weight), dtype=_accumulated(states.dtype))
        for start, _, maxima in self.chunks(states, weight):
            found[:, start : start + maxima.shape[1]] = maxima
        return found

    def owners(self, logits: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Token and column of each entry that is set in ``active`` [N, c], the first token where several are equal."""
        text, column = active.nonzero(as_tuple=True)
        if not len(text):
            return text, column
        if len(text) <= FEW * active.numel():
            tokens = self.places[text]
            own = logits[tokens, column.unsqueeze(1)].argmax(1, keepdim=True)
            return tokens.gather(1, own).squeeze(1), column
        first = torch.zeros_like(active, dtype=torch.int64)
        for row, (start, end) in enumerate(zip(self.starts.tolist(), self.ends.tolist(), strict=True)):
            if end > start:
                first[row] = logits[start:end].max(0).indices + start
        return first[text, column], column


class _Maxima(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, product: _Product) -> Tensor:
        """[N, V], clipped at 0 where there is a bias; remembers token and entry of what has a gradient, no logits."""
        found = states.new_empty(product.texts, len(weight), dtype=_accumulated(states.dtype))
        tokens, entries = [], []
        for start, logits, maxima in product.chunks(states, weight):
            stop = start + maxima.shape[1]
            part = found[:, start:stop]
            active = part.copy_(maxima) > -torch.inf if bias is None else _clipped(maxima, bias[start:stop], part) > 0
            token, column = product.owners(logits, active)
            tokens.append(token.int())
            entries.append((column + start).int())
        ctx.product = product
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(states, weight, torch.cat(tokens), torch.cat(entries))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sparse products, added up in float32 or wider: the gradient of a logit times what it was multiplied with."""
        states, weight, tokens, entries = ctx.saved_tensors
        received = grad[ctx.product.text[tokens], entries]
        states_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[0]:
            states_grad = _weighted_rows(tokens, entries, received, weight, len(states)).to(states.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad = _weighted_rows(entries, tokens, received, states, len(weight)).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            bias_grad = received.new_zeros(len(weight)).index_add_(0, entries, received).to(ctx.bias_dtype)
        return states_grad, weight_grad, bias_grad, None


def _clipped(maxima: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    return torch.add(maxima, bias, out=out).relu_()


def _weighted_rows(target: Tensor, source: Tensor, factors: Tensor, rows: Tensor, size: int) -> Tensor:
    """[size, D] whose row i is the sum of ``factors[k] * rows[source[k]]`` over all k with ``target[k] == i``."""
    target, order = target.sort(stable=True)
    starts = torch.searchsorted(target, torch.arange(size, device=target.device, dtype=target.dtype), out_int32=True)
    values = rows.to(factors.dtype)
    return F.embedding_bag(source[order], values, starts, mode="sum", per_sample_weights=factors[order])


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
