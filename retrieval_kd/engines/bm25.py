"""BM25 over a passage store: built once, memory-mapped, ties broken by row.

The index is bm25s's (Lucene's variant, weights computed when it is built). Searching multiplies it with a block of
queries as sparse matrices, so that only passages that share a word with a query are touched, and any text can be
scored with the collection's statistics, as if it stood in the collection.
"""

from __future__ import annotations

import json
import logging
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy import sparse

from retrieval_kd.contracts import Hits, PassageTexts, UserError
from retrieval_kd.data.distinct import distinct
from retrieval_kd.data.files import atomic_folder, text_digest
from retrieval_kd.data.progress import track

READ_AT_ONCE = 4096  # passages
SCORES_AT_ONCE = 1 << 25  # (query, passage) scores of one block of queries, if all were non-zero
WORD = re.compile(r"[^\W_]+")  # letters and digits: identifiers fall into their words
SETTINGS = "settings.json"


def singular(word: str) -> str:
    """English plural to singular by Harman's three rules (JASIS 1991): no dictionary, few mistakes."""
    if word[-1] != "s":
        return word
    if word.endswith("ies") and len(word) > 4 and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and len(word) > 3 and word[-3] not in "aeo":
        return word[:-1]
    return word[:-1] if len(word) > 3 and word[-2] not in "us" else word


STEMMERS: dict[str, Callable[[str], str]] = {"none": str, "plural": singular}


@dataclass(frozen=True)
class Settings:
    """Everything that a score depends on besides the collection.

    The defaults for words were chosen on seven small English collections: against no stemming or a shorter list of
    stop words they gave the best nDCG@10 on six and lost .0004 on one.
    """

    k1: float = 0.9
    b: float = 0.4
    stop_words: str = "english"  # or none
    stemmer: str = "plural"  # or none

    def __post_init__(self) -> None:
        if self.stop_words not in ("english", "none"):
            raise UserError(f"BM25: stop_words is english or none, not {self.stop_words!r}")
        if self.stemmer not in STEMMERS:
            raise UserError(f"BM25: stemmer is {' or '.join(sorted(STEMMERS))}, not {self.stemmer!r}")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise UserError(f"BM25: k1 must be >= 0 and b between 0 and 1, not k1={self.k1} b={self.b}")

    @cached_property
    def _stop_words(self) -> frozenset[str]:
        if self.stop_words == "none":
            return frozenset()
        return frozenset(_library().stopwords.STOPWORDS_EN_PLUS)

    def terms(self, text: str) -> list[str]:
        """What a text is to BM25, in order."""
        stem, stop_words = STEMMERS[self.stemmer], self._stop_words
        return [stem(word) for word in WORD.findall(text.lower()) if word not in stop_words]


class _TermIds(NamedTuple):
    """A collection as term ids, in the form that bm25s takes."""

    ids: _Documents
    vocab: dict[str, int]


class _Documents(Sequence[list[int]]):
    """Term ids of each passage over one flat array: bm25s reads it several times, never all of it as lists."""

    def __init__(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        self.flat = flat
        self.ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> list[int]:  # type: ignore[override]
        return self.flat[self.ends[row - 1] if row else 0 : self.ends[row]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))


class BM25:
    """A BM25 index in a folder."""

    def __init__(self, path: Path) -> None:
        if not (path / SETTINGS).exists():
            raise UserError(f"{path}: not a BM25 index (it has no {SETTINGS})")
        record = json.loads((path / SETTINGS).read_text())
        index = _library().BM25.load(path, mmap=True)
        self.path = path
        self.settings = Settings(**record["settings"])
        self.collection_digest: str = record["collection_digest"]
        self._average_length: float = record["average_length"]
        self._size: int = record["passages"]
        self._vocabulary: dict[str, int] = index.vocab_dict
        scores = index.scores
        self._weights = sparse.csr_array(
            (scores["data"], scores["indices"], scores["indptr"]), shape=(len(self._vocabulary), self._size)
        )

    @classmethod
    def build(
        cls,
        path: Path,
        passages: PassageTexts,
        k1: float = Settings.k1,
        b: float = Settings.b,
        stop_words: str = Settings.stop_words,
        stemmer: str = Settings.stemmer,
    ) -> BM25:
        """Index every passage and open the index; a folder that is already there stays as it is."""
        settings = Settings(k1, b, stop_words, stemmer)
        if not len(passages):
            raise UserError(f"{passages.path}: no passages to index")
        documents, digest = _read(passages, settings)
        if not documents.vocab:
            raise UserError(f"{passages.path}: no passage has a word that BM25 could index")
        index = _library().BM25(k1=k1, b=b, method="lucene", backend="numpy", csc_backend="numpy")
        index.index(documents, create_empty_token=False, show_progress=False)
        record = {
            "settings": asdict(settings),
            "collection_digest": digest,
            "average_length": len(documents.ids.flat) / len(documents.ids),
            "passages": len(documents.ids),
        }
        with atomic_folder(path) as folder:
            index.save(folder, show_progress=False)
            (folder / SETTINGS).write_text(json.dumps(record, indent=1))
        return cls(path)

    def __len__(self) -> int:
        return self._size

    @property
    def fingerprint(self) -> str:
        """Everything a score depends on: settings, and the texts of the collection in their order."""
        return text_digest("bm25 lucene 1", json.dumps(asdict(self.settings)), self.collection_digest)

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """The k best passages that share a term with the query; equal scores in the order of rows."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        hits = Hits(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))
        block = max(1, min(256, SCORES_AT_ONCE // self._size))
        for start in track(range(0, len(queries), block), "BM25 search"):
            found = self._counts(queries[start : start + block])[0] @ self._weights
            for i, (first, last) in enumerate(zip(found.indptr[:-1], found.indptr[1:], strict=True), start):
                rows, scores = _best(found.indices[first:last], found.data[first:last], k)
                hits.rows[i, : len(rows)], hits.scores[i, : len(rows)] = rows, scores
        return hits

    def score_texts(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N], entry n for (queries[n], passages[n]); a passage need not be of the collection.

        Frequencies of terms and the average length are the collection's; terms that it lacks only add length.
        """
        if len(queries) != len(passages):
            raise ValueError(f"{len(queries)} queries for {len(passages)} passages")
        query_texts, query_rows = distinct(queries)
        passage_texts, passage_rows = distinct(passages)
        (counts, _), weights = self._counts(query_texts), self._text_weights(passage_texts)
        result, ones = np.zeros(len(queries), np.float32), np.ones(len(self._vocabulary), np.float32)
        for start in range(0, len(queries), 1 << 16):
            part = slice(start, start + (1 << 16))
            products = counts[query_rows[part]].multiply(weights[passage_rows[part]]).tocsr()
            result[part] = products @ ones  # a sum in float32 and in order, as in ``search``; ``sum`` does neither
        return result

    def _text_weights(self, texts: Sequence[str]) -> sparse.csr_array:
        """What bm25s stores for a passage of the collection, for any text: float32 [texts, terms]."""
        k1, b = self.settings.k1, self.settings.b
        matrix, lengths = self._counts(texts)
        norm = np.repeat(k1 * (1 - b + b * lengths / self._average_length), np.diff(matrix.indptr))
        matrix.data = (self._idf[matrix.indices] * (matrix.data / (norm + matrix.data))).astype(np.float32)
        return matrix

    def _counts(self, texts: Sequence[str]) -> tuple[sparse.csr_array, np.ndarray]:
        """Occurrences of each known term, float32 [texts, terms], and the lengths, terms unknown included.

        Columns ascend, so that the sums of ``search`` and ``score_texts`` run in one order.
        """
        ids, counts, ends, lengths = array("i"), array("f"), array("q", [0]), array("q")
        for text in texts:
            terms = self.settings.terms(text)
            known = sorted(Counter(self._vocabulary[term] for term in terms if term in self._vocabulary).items())
            ids.extend(term for term, _ in known)
            counts.extend(count for _, count in known)
            ends.append(len(ids))
            lengths.append(len(terms))
        arrays = np.array(counts, np.float32), np.array(ids, np.int32), np.array(ends)
        return sparse.csr_array(arrays, shape=(len(texts), len(self._vocabulary))), np.array(lengths, np.float64)

    @cached_property
    def _idf(self) -> np.ndarray:
        found_in = np.diff(self._weights.indptr).tolist()
        return np.array([math.log(1 + (self._size - n + 0.5) / (n + 0.5)) for n in found_in], np.float32)


def _library() -> ModuleType:
    """Import bm25s when it is needed (it imports numba) and keep its debug lines out of our log."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s


def _read(passages: PassageTexts, settings: Settings) -> tuple[_TermIds, str]:
    """Term ids of every passage, terms numbered as they first occur, and a digest of the texts."""
    vocabulary: dict[str, int] = {}
    flat, lengths, digest = array("i"), array("i"), blake2b(digest_size=16)
    for start in track(range(0, len(passages), READ_AT_ONCE), "BM25 index"):
        for text in passages.texts(np.arange(start, min(start + READ_AT_ONCE, len(passages)))):
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
            ids = [vocabulary.setdefault(term, len(vocabulary)) for term in settings.terms(text)]
            flat.extend(ids)
            lengths.append(len(ids))
    documents = _Documents(np.frombuffer(flat, np.int32), np.frombuffer(lengths, np.int32))
    return _TermIds(documents, vocabulary), digest.hexdigest()


def _best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of some scored rows, best first, equal scores by row."""
    if len(rows) > k:
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= last  # more than k where the last score is shared
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
