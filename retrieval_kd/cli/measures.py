"""How a run's measures are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_measures(folder: Path) -> None:
    """A line per collection, and per round before it, from the folder's metrics.json; nothing if it has none."""
    path = folder / "metrics.json"
    if not path.is_file():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    for one in found.get("rounds", ()):
        _print_collections(one["collections"], f"{one['name']}: ")
    _print_collections(found.get("collections", {}))


def _print_collections(collections: Mapping[str, Any], about: str = "") -> None:
    for name, result in collections.items():
        measures = "  ".join(f"{measure} {value:.4f}" for measure, value in result["measures"].items())
        print(f"{about}{name}, {result['queries']:,} queries: {measures}")
