"""Means over collections: each counts the same, however many queries it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the measures that all results have; the queries are counted together."""
    shared = [name for name in results[0]["measures"] if all(name in one["measures"] for one in results)]
    means = {name: sum(one["measures"][name] for one in results) / len(results) for name in shared}
    return {
        "queries": sum(one["queries"] for one in results),
        "measures": {name: round(value, 6) for name, value in means.items()},
    }


def with_means(
    collections: Mapping[str, Mapping[str, Any]], means: Mapping[str, Sequence[str]]
) -> dict[str, Mapping[str, Any]]:
    """Results by label, and behind them those of every mean, which names what it is of; means may be of means."""
    found: dict[str, Mapping[str, Any]] = dict(collections)
    for label, parts in means.items():
        found[label] = mean_of([found[part] for part in parts]) | {"mean_of": list(parts)}
    return found


def weights(sizes: Sequence[int]) -> np.ndarray:
    """float64 [collections]: by these the values of single queries are taken, that their mean is that over collections.

    So a paired test over all queries is one of the mean over collections.
    """
    counts = np.asarray(sizes, np.float64)
    return counts.sum() / (len(counts) * counts)
