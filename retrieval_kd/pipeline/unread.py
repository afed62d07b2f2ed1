"""Collections that cannot be told about before work is done: a plan without their content."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from retrieval_kd.contracts import Passage
from retrieval_kd.data.python_docs import SPLITS
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.compose import compose


def is_read(cfg: DictConfig) -> bool:
    """Whether digests and counts can be had in a moment; a source that does not say so is quick."""
    source = build(cfg.data.source)
    return bool(source.ready()) if hasattr(source, "ready") else True


def without_reading(cfg: DictConfig) -> DictConfig:
    """The same configuration over a collection of which only the splits are known, in every stage."""
    return compose([*cfg.overrides, f"data.source._target_={__name__}.unread"])


class Unread:
    """Stands for a collection that was never parsed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def digest(self) -> str:
        """No digest of anything."""
        return "unread"

    def splits(self) -> tuple[str, ...]:
        """The splits that the embedded collection has."""
        return SPLITS

    def passages(self) -> Iterator[Passage]:
        """Nothing yet."""
        return iter(())

    def queries(self, split: str) -> dict[str, str]:
        """Nothing yet."""
        return {}

    def judgements(self, split: str) -> dict[str, dict[str, int]]:
        """None yet, but there will be."""
        return {}


def unread(name: str, **_: object) -> Unread:
    """Take the place of a source, whatever that is configured by."""
    return Unread(name)
