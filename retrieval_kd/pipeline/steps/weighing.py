"""Weigh the tokens of a collection, for students whose queries are tokens times weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection

WEIGHTS = "weights.npy"
TABLE = "idf.json"


def weigh(folder: Path, collection: Collection, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse document frequency of every token, as an array and as the table that other tools read."""
    from retrieval_kd.data.token_weights import idf_weights, tokenizer_vocabulary, write_token_weights
    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.students.backbone import load_tokenizer

    loaded = load_tokenizer(resolve_encoder(tokenizer["name"], tokenizer["path"]))
    weights = idf_weights(loaded, collection.passages)
    np.save(folder / WEIGHTS, weights)
    write_token_weights(folder / TABLE, tokenizer_vocabulary(loaded), weights)
    return {"passages": len(collection.passages), "tokens": int((weights > 0).sum())}


def read_weights(weighed: Path) -> np.ndarray:
    """Float32 [V], in the order of token ids."""
    weights: np.ndarray = np.load(weighed / WEIGHTS)
    return weights
