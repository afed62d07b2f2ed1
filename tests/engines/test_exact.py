import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.engines.exact import exact


def test_the_engine_is_chosen_by_the_arrays():
    kinds = {"vectors": lambda passages: ("dense", passages), "terms": lambda passages: ("sparse", passages)}
    arrays = {"terms": np.zeros(1), "offsets": np.zeros(2)}
    assert exact(arrays, **kinds) == ("sparse", arrays)
    assert exact({"vectors": np.zeros((1, 2))}, **kinds)[0] == "dense"


def test_what_no_engine_searches_is_refused():
    with pytest.raises(UserError, match="engine=exact searches vectors, and the student makes tokens"):
        exact({"tokens": np.zeros(1)}, vectors=dict)
