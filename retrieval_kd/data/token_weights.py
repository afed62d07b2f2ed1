"""A weight for every token of a vocabulary: what an inference-free student's queries are made of.

Weights are one array in the order of token ids. On disk they are JSON (``{token: weight}``, ``idf.json``) or lines of
token, tab, weight (OpenSearch's ``query_token_weights.txt``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import PassageTexts, UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.data.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1024  # passages that are tokenized and counted at once
ABSENT = 1.0  # weight of a token that no passage holds, in the published table and in OpenSearch alike


class PlainTokens:
    """Token ids of texts without special tokens, prompt or limit; text that spells a special token stays text.

    It talks to a copy of the tokenizer's backend: transformers' own call takes several times as long for one query, and
    changes settings of the original.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._slow = None
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            self._slow = tokenizer
            return
        from tokenizers import Tokenizer

        self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._fast.no_truncation()
        self._fast.no_padding()
        self._fast.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        if not texts:
            return []
        if self._slow is not None:
            encoded = self._slow(list(texts), add_special_tokens=False, split_special_tokens=True)
            return encoded["input_ids"]
        if len(texts) == 1:  # a batch is spread over threads, which costs more than one query is worth
            return [self._fast.encode(texts[0], add_special_tokens=False).ids]
        return [encoding.ids for encoding in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]


def tokenizer_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Token strings by id; an id without a token gets a name of its own."""
    found = {row: token for token, row in tokenizer.get_vocab().items()}
    return [found.get(row, f"[no token {row}]") for row in range(max(found) + 1)]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that never carry weight, the unknown token among them."""
    return sorted(set(tokenizer.all_special_ids))


def idf(document_frequency: np.ndarray, documents: int) -> np.ndarray:
    """ln(1 + (N - df + .5) / (df + .5)), BM25's, float32 [V]; 1.0 for a token that no document holds."""
    df = np.asarray(document_frequency, np.float64)
    return np.where(df > 0, np.log1p((documents - df + 0.5) / (df + 0.5)), ABSENT).astype(np.float32)


def document_frequencies(tokenizer: PreTrainedTokenizerBase, passages: PassageTexts) -> tuple[np.ndarray, int]:
    """How many passages hold each token, int64 [V], and how many hold any; whole passages, no special tokens."""
    tokens, size = PlainTokens(tokenizer), len(tokenizer_vocabulary(tokenizer))
    counts, documents = np.zeros(size, np.int64), 0
    for start in track(range(0, len(passages), BATCH), "count tokens"):
        ids = tokens(passages.texts(range(start, min(start + BATCH, len(passages)))))
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
        distinct = np.unique(np.repeat(np.arange(len(ids)), lengths) * size + flat)
        counts += np.bincount(distinct % size, minlength=size)
        documents += int((lengths > 0).sum())
    return counts, documents


def idf_weights(tokenizer: PreTrainedTokenizerBase, passages: PassageTexts) -> np.ndarray:
    """Weights of a collection, float32 [V], 0 at special tokens."""
    weights = idf(*document_frequencies(tokenizer, passages))
    weights[special_ids(tokenizer)] = 0.0
    return weights


def read_token_weights(path: Path, vocabulary: Sequence[str], special: Collection[int]) -> np.ndarray:
    """Weights in the order of ``vocabulary``, float32 [V], 0 at ``special`` ids, which may be missing.

    Every other token must have a weight, finite and not negative, and no other token may have one.
    """
    given = _read(path)
    rows = {token: row for row, token in enumerate(vocabulary)}
    unknown = [token for token in given if token not in rows]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of {len(given)} tokens are not in the student's vocabulary, first "
            f"{unknown[0]!r}: the weights are those of another tokenizer"
        )
    bad = next((token for token, value in given.items() if not (np.isfinite(value) and value >= 0)), None)
    if bad is not None:
        raise UserError(f"{path}: the weight of {bad!r} is {given[bad]}; a finite number >= 0 is needed")
    silent = set(special)
    missing = [token for row, token in enumerate(vocabulary) if token not in given and row not in silent]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(vocabulary)} tokens have no weight, first {missing[0]!r}")
    weights = np.array([given.get(token, 0.0) for token in vocabulary], np.float32)
    weights[list(silent)] = 0.0
    return weights


def write_token_weights(path: Path, vocabulary: Sequence[str], weights: np.ndarray) -> None:
    """Write JSON, or lines where ``path`` ends in .txt; what is read back is equal to the last bit."""
    if len(vocabulary) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(vocabulary)} tokens")
    # Shortest digits that give the float32 again.
    digits = [str(value) for value in np.asarray(weights, np.float32)]
    if path.suffix == ".txt":
        broken = next((token for token in vocabulary if "\n" in token or "\r" in token), None)
        if broken is not None:
            raise UserError(f"{path}: token {broken!r} cannot stand in a file of lines; JSON would fit")
        text = "".join(f"{token}\t{value}\n" for token, value in zip(vocabulary, digits, strict=True))
    else:
        text = json.dumps(dict(zip(vocabulary, map(float, digits), strict=True)), ensure_ascii=False, indent=0) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, float]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"{path}: cannot be read: {reason}") from error
    if not text.lstrip().startswith("{"):
        return _unique(path, (_line(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line))
    try:
        # Pairs, not a dictionary: of a token that is given twice, one weight would be lost unseen.
        pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    odd = next((pair for pair in pairs if isinstance(pair[1], bool) or not isinstance(pair[1], int | float)), None)
    if odd is not None:
        raise UserError(
            f"{path}: the weight of {odd[0]!r} is {json.dumps(odd[1])[:40]}; a finite number >= 0 is needed"
        )
    return _unique(path, pairs)


def _line(path: Path, number: int, line: str) -> tuple[str, float]:
    token, tab, weight = line.rstrip("\r").rpartition("\t")
    try:
        if not tab or not token:
            raise ValueError
        return token, float(weight)
    except ValueError:
        raise UserError(f"{path}:{number}: a token, a tab and a weight are expected, not {line[:40]!r}") from None


def _unique(path: Path, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for token, weight in pairs:
        if token in found:
            raise UserError(f"{path}: token {token!r} is given twice")
        found[token] = float(weight)
    if not found:
        raise UserError(f"{path}: no weights in it")
    return found
