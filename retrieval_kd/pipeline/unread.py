"""Collections that cannot be told about before work is done: a plan without their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from retrieval_kd.contracts import Passage, Source
from retrieval_kd.data.python_docs import SPLITS
from retrieval_kd.pipeline.compose import compose

UNREAD = "unread"  # the key of a configuration whose collections are not to be read


def without_reading(cfg: DictConfig) -> DictConfig:
    """The same configuration over collections of which only the splits are known, in every stage."""
    return compose([*cfg.overrides, f"+{UNREAD}=true"])


class Unread:
    """Stands for a collection that was never parsed, or is not on this machine."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.default_split = getattr(source, "default_split", "test")
        self._splits = tuple(getattr(source, "declared_splits", SPLITS))

    def digest(self) -> str:
        """No digest of anything."""
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
