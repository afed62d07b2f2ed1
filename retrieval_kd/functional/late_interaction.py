"""Late interaction: the sum, over a query's tokens, of each one's best match among a passage's tokens (MaxSim).

All queries meet all passages, and never are the products of all tokens held: some passages at a time are multiplied
with all tokens of the queries, of which the maxima are kept, and in training whose they were. The backward pass touches
those alone; its gradients are exact. Padding is not computed with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval_kd.functional.max_head import max_products

TOKENS_AT_ONCE = 1 << 12  # of passages
ENTRIES_AT_ONCE = 1 << 9  # tokens of queries that they are multiplied with


def max_sim(queries: Tensor, query_lengths: Tensor, passages: Tensor, passage_lengths: Tensor) -> Tensor:
    """[Q, L, D] and [P, L, D], padded behind their lengths [Q] and [P], to [Q, P] in float32 (float64 of float64)."""
    return max_sim_of_tokens(
        without_padding(queries, query_lengths),
        query_lengths,
        without_padding(passages, passage_lengths),
        passage_lengths,
    )


def max_sim_of_tokens(
    queries: Tensor,
    query_lengths: Tensor,
    passages: Tensor,
    passage_lengths: Tensor,
    at_once: int = TOKENS_AT_ONCE,
) -> Tensor:
    """Scores [Q, P] of texts whose tokens stand one behind the other.

    A passage without tokens has minus infinity: nothing finds it. A query without tokens has 0 for all others.

    Args:
        queries: Token vectors [T, D] of all queries.
        query_lengths: How many of them each query has, [Q] int64.
        passages: Token vectors [T, D] of all passages.
        passage_lengths: [P] int64.
        at_once: Tokens of passages that are multiplied at once, or those of one passage if it has more.
    """
    passages, queries = _wide(passages), _wide(queries)
    with torch.autocast(queries.device.type, enabled=False):
        maxima = []
        first, token = 0, 0
        for texts, tokens in _blocks(passage_lengths.tolist(), at_once):
            lengths = passage_lengths[first : first + texts]
            text = torch.repeat_interleave(lengths, output_size=tokens)
            part = passages[token : token + tokens]
            maxima.append(max_products(part, text, texts, queries, ENTRIES_AT_ONCE))
            first, token = first + texts, token + tokens
        if not maxima:
            return queries.new_empty(len(query_lengths), 0)
        query = torch.repeat_interleave(query_lengths, output_size=len(queries))
        found = torch.cat(maxima) if len(maxima) > 1 else maxima[0]
        scores = found.new_zeros(len(query_lengths), len(found)).index_add(0, query, found.T)
        return scores.masked_fill(passage_lengths == 0, -torch.inf)


def without_padding(tokens: Tensor, lengths: Tensor) -> Tensor:
    """[N, L, D] to [T, D], those of one text behind those of the other."""
    return tokens[inside(lengths, tokens.shape[1])]


def inside(lengths: Tensor, width: int) -> Tensor:
    """[N, width] bool, True up to each length."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def _blocks(lengths: list[int], at_once: int) -> list[tuple[int, int]]:
    """Texts and tokens of each block: as many as together have at most ``at_once`` tokens, and at least one."""
    blocks: list[tuple[int, int]] = []
    texts = tokens = 0
    for length in lengths:
        if texts and tokens + length > at_once:
            blocks.append((texts, tokens))
            texts = tokens = 0
        texts, tokens = texts + 1, tokens + length
    return [*blocks, (texts, tokens)] if texts else blocks


def _wide(tokens: Tensor) -> Tensor:
    return tokens if tokens.dtype == torch.float64 else tokens.float()
