"""Collections that cannot be told about before work is done: a plan without their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig

from retrieval_kd.contracts import Passage, Source, UserError
from retrieval_kd.data.python_docs import SPLITS
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.compose import compose

UNREAD = "unread"  # the key of a configuration whose collections are not to be read


def without_reading(cfg: DictConfig) -> DictConfig:
    """The same configuration over collections of which only the splits are known, in every stage."""
    return compose([*cfg.overrides, f"+{UNREAD}=true"])


def unread(data: DictConfig) -> Unread:
    """What stands for the collection of a ``data`` node, be it on this machine or not."""
    try:
        source: Source = build(data.source)
    except UserError:  # its files are not here
        asked = data.split if isinstance(data.split, str) else None
        stated = (data.get("counts") or {}).get("queries") or SPLITS
        return Unread(data.get("name") or "the collection", list(dict.fromkeys([*stated, *filter(None, [asked])])))
    return Unread(source.name, getattr(source, "declared_splits", SPLITS), getattr(source, "default_split", "test"))


class Unread:
    """Stands for a collection that was never parsed, or is not on this machine."""

    def __init__(self, name: str, splits: Sequence[Any], default_split: str = "test") -> None:
        self.name = name
        self.default_split = default_split
        self._splits = tuple(map(str, splits))

    def digest(self) -> str:
        """Of its name: there is no content."""
        return f"unread {self.name}"

    def splits(self) -> Sequence[str]:
        """Those that are known without reading."""
        return self._splits

    def passages(self) -> Iterator[Passage]:
        """Nothing yet."""
        return iter(())

    def queries(self, split: str) -> dict[str, str]:
        """Nothing yet."""
        return {}

    def judgements(self, split: str) -> dict[str, dict[str, int]]:
        """None yet, but there will be."""
        return {}
