import numpy as np
import pytest
from sparse_case import passages_of, queries_of

from retrieval_kd.contracts import UserError
from retrieval_kd.engines.exact import exact, recall_of_exact
from retrieval_kd.engines.inverted import InvertedIndex


def test_the_engine_is_chosen_by_the_arrays():
    kinds = {"vectors": lambda passages: ("dense", passages), "terms": lambda passages: ("sparse", passages)}
    arrays = {"terms": np.zeros(1), "offsets": np.zeros(2)}
    assert exact(arrays, **kinds) == ("sparse", arrays)
    assert exact({"vectors": np.zeros((1, 2))}, **kinds)[0] == "dense"


def test_what_no_engine_searches_is_refused():
    with pytest.raises(UserError, match="engine=exact searches vectors, and the student makes tokens"):
        exact({"tokens": np.zeros(1)}, vectors=dict)


@pytest.mark.slow  # compiles
def test_recall_counts_what_is_found_of_the_exact_hits():
    passages = passages_of(200)
    queries = queries_of(30)

    class Every:
        """Exact search that forgets every other hit of each query."""

        def search(self, asked, k):
            hits = InvertedIndex(passages).search(asked, k)
            hits.rows[:, ::2] = -1
            return hits

    exact = InvertedIndex(passages)
    assert recall_of_exact(exact, passages, queries) == 1
    best = exact.search(queries, 10).rows
    kept = (best[:, 1::2] >= 0).sum() / (best >= 0).sum()
    assert recall_of_exact(Every(), passages, queries, most=30) == pytest.approx(kept)
    none = {name: array[:0] for name, array in queries.items()}
    assert recall_of_exact(exact, passages, none) == 1
