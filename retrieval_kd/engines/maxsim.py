"""Exact late-interaction search: every passage's MaxSim with every query, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.data.progress import track
from retrieval_kd.functional.late_interaction import max_sim_of_tokens, without_padding

QUERY_TOKENS_AT_ONCE = 512  # how often the passages are read
TOKENS_READ = 1 << 17  # of passages that are taken from the file at once


class MaxSimIndex:
    """``tokens`` [T, D] of passages, one behind the other as ``offsets`` [N + 1] says; they may be memory-mapped.

    Where there is a GPU it computes there. Passages without tokens are not found.
    """

    def __init__(self, passages: Mapping[str, np.ndarray]) -> None:
        self.offsets = np.asarray(passages["offsets"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a memory map cannot be written to
            self.tokens = torch.from_numpy(np.asarray(passages["tokens"]))
        if self.tokens.ndim != 2 or self.offsets[-1] != len(self.tokens):
            raise ValueError(f"tokens {list(self.tokens.shape)} do not fit offsets up to {self.offsets[-1]}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.edges = _edges(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def search(self, queries: Mapping[str, np.ndarray], k: int) -> Hits:
        """The k passages of highest score, equal scores in the order of rows."""
        tokens, lengths = queries["tokens"], queries["lengths"]
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if tokens.ndim != 3 or tokens.shape[2] != self.tokens.shape[1]:
            raise ValueError(f"queries {list(tokens.shape)} do not fit tokens {list(self.tokens.shape)}")
        hits = Hits(np.full((len(tokens), k), -1, np.int64), np.full((len(tokens), k), -np.inf, np.float32))
        size = max(1, QUERY_TOKENS_AT_ONCE // max(1, tokens.shape[1]))
        for start in track(range(0, len(tokens), size), "search"):
            scores = self._scores(tokens[start : start + size], lengths[start : start + size])
            self._check(scores, start)
            for row, found in enumerate(scores, start):
                best = _best(found, k)
                hits.rows[row, : len(best)], hits.scores[row, : len(best)] = best, found[best]
        return hits

    @torch.inference_mode()
    def _scores(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """float32 [q, N]."""
        sizes = torch.from_numpy(np.asarray(lengths, np.int64)).to(self.device)
        asked = without_padding(torch.from_numpy(np.asarray(tokens, np.float32)).to(self.device), sizes)
        scores = np.empty((len(tokens), len(self)), np.float32)
        for start, end in zip(self.edges[:-1], self.edges[1:], strict=True):
            first, last = self.offsets[start], self.offsets[end]
            some = self.tokens[first:last].to(self.device, torch.float32)
            those = torch.from_numpy(np.diff(self.offsets[start : end + 1])).to(self.device)
            scores[:, start:end] = max_sim_of_tokens(asked, sizes, some, those).cpu().numpy()
        return scores

    def _check(self, scores: np.ndarray, start: int) -> None:
        """A number that is none would make every ranking meaningless without a word."""
        wrong = np.isnan(scores) | (np.isinf(scores) & (np.diff(self.offsets) > 0))
        if wrong.any():
            query = wrong.all(1)
            row = start + int(np.argmax(query)) if query.any() else int(np.argmax(wrong.any(0)))
            raise UserError(f"a token of {'query' if query.any() else 'passage'} row {row} holds NaN or infinity")


def _edges(offsets: np.ndarray) -> list[int]:
    """Rows at which the passages are cut, so that each part is read at once."""
    edges = [0]
    while edges[-1] < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[edges[-1]] + TOKENS_READ, "right")) - 1
        edges.append(min(len(offsets) - 1, max(last, edges[-1] + 1)))
    return edges


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest scores above minus infinity, equal ones in their order."""
    rows = np.flatnonzero(scores > -np.inf)
    if len(rows) > k:
        last = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= last]
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]
