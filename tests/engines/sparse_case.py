"""Sparse passages and queries, and their scores by scipy."""

import numpy as np
from scipy import sparse

V = 300


def passages_of(size, seed=0, most=30, spread=1.0):
    """Terms from very frequent to rare, so that there are columns as well as short lists; some rows have no terms."""
    draw = np.random.default_rng(seed)
    chances = 1 / (1 + np.arange(V))
    keys = draw.gumbel(size=(size, V)) + np.log(chances)
    lengths = draw.integers(0, most, size)
    chosen = np.argsort(np.argsort(-keys, 1), 1) < lengths[:, None]
    weights = np.exp(spread * draw.standard_normal(int(chosen.sum()))).astype(np.float32)
    return {
        "terms": np.nonzero(chosen)[1].astype(np.int32),
        "weights": weights,
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
    }


def padded(lists):
    """Queries as an encoder gives them, of term and weight lists."""
    lengths = np.array([len(terms) for terms, _ in lists])
    result = {name: np.zeros((len(lists), max(lengths, default=0)), kind) for name, kind in KINDS.items()}
    for row, (terms, weights) in enumerate(lists):
        result["terms"][row, : len(terms)], result["weights"][row, : len(terms)] = terms, weights
    return result | {"lengths": lengths}


KINDS = {"terms": np.int32, "weights": np.float32}


def queries_of(number, seed=1, most=15):
    draw = np.random.default_rng(seed)
    terms = [np.sort(draw.choice(V, draw.integers(0, most), replace=False)) for _ in range(number)]
    return padded([(some, draw.gamma(1, 2, len(some)) + 0.01) for some in terms])


def matrix(arrays, vocabulary=V):
    shape = (len(arrays["offsets"]) - 1, vocabulary)
    return sparse.csr_array((arrays["weights"], arrays["terms"], arrays["offsets"]), shape)


def product(queries, passages):
    """Every score by scipy, which adds float32 products up in the order of terms."""
    real = np.arange(queries["terms"].shape[1]) < queries["lengths"][:, None]
    flat = {name: queries[name][real] for name in ("terms", "weights")}
    offsets = np.concatenate([[0], np.cumsum(queries["lengths"])])
    return (matrix(flat | {"offsets": offsets}) @ matrix(passages).T.tocsr()).toarray()
