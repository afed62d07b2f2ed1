"""Collections that cannot be told about before work is done: a plan without their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from retrieval_kd.contracts import Passage
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.python_docs import SPLITS
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.compose import compose


def is_read(cfg: DictConfig) -> bool:
    """Whether digests and counts can be had in a moment; a source that does not say so is quick."""
    source = build(cfg.data.source)
    return bool(source.ready()) if hasattr(source, "ready") else True


def without_reading(cfg: DictConfig) -> DictConfig:
    """The same configuration over collections of which only the splits are known, in every stage."""
    named = [entry.get("split") for role in ("train", "validation", "evaluate") for entry in cfg.data[role].values()]
    stated = (cfg.data.get("counts") or {}).get("queries") or SPLITS
    splits = ",".join(repr(str(split)) for split in dict.fromkeys([*stated, cfg.data.split, *filter(None, named)]))
    return compose([*cfg.overrides, f"data.source._target_={__name__}.unread", f"+data.source.splits=[{splits}]"])


class Unread:
    """Stands for a collection that was never parsed."""

    def __init__(self, name: str, splits: Sequence[str], settings: str) -> None:
        self.name = name
        self._splits = tuple(splits)
        self._settings = settings

    def digest(self) -> str:
        """Of what names the collection, and of nothing in it."""
        return text_digest("unread", self.name, self._settings)

    def splits(self) -> tuple[str, ...]:
        """The splits that it is said to have."""
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


def unread(name: str | None = None, splits: Sequence[str] = SPLITS, **settings: object) -> Unread:
    """Take the place of a source, whatever that is configured by."""
    return Unread(name or "the collection", splits, repr(sorted(settings.items(), key=lambda item: item[0])))
