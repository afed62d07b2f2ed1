"""Which collections a config names for training, validation and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import Source, UserError
from retrieval_kd.data.collections import NONE, Collection, Limit, collection_digest, open_collection
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.folder import ALL
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.conf_tree import did_you_mean


@dataclass(frozen=True)
class Entry:
    """One collection and split, opened when asked."""

    name: str
    split: str
    data: Mapping[str, Any]
    source: Source
    store: Path

    @property
    def label(self) -> str:
        """``name/split``, as results call it."""
        return f"{self.name}/{self.split}"

    @cached_property
    def key(self) -> str:
        """Digest of queries, judgements and passages, without opening them."""
        return collection_digest(self.source, self.split, **self._options)

    @cached_property
    def judged(self) -> bool:
        """Whether there is anything to evaluate against."""
        return self.data["judgements"] != NONE and self.source.judgements(self.split) is not None

    @cached_property
    def passages_key(self) -> str:
        """Digest of the passages alone: the splits of a collection share indexes and representations."""
        limit = Limit.of(self.data["limit"])
        return text_digest("passages", self.source.digest(), str(self.data["titles"]), limit.spelled())

    @cached_property
    def collection(self) -> Collection:
        """The collection itself."""
        return open_collection(self.source, self.split, self.store, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {name: self.data[name] for name in ("titles", "limit", "judgements", "unknown")}


@dataclass(frozen=True)
class Entries:
    """Where a run learns, watches and is measured."""

    train: Entry | None
    validation: Entry | None
    evaluate: tuple[Entry, ...]


def entries(cfg: DictConfig) -> Entries:
    """The lists that the config spells out, or what the shorthand of a single collection stands for."""
    data = cfg.data
    store = Path(cfg.store)
    named = {role: _named(cfg, role) for role in ("train", "validation", "evaluate")}
    source = None if all(named.values()) else _source(cfg)
    splits = () if source is None else source.splits()

    def own(split: str | None) -> Entry | None:
        if source is None or split is None:
            return None
        plain = OmegaConf.to_container(data, resolve=True)
        assert isinstance(plain, dict)
        return Entry(source.name, split, {str(k): v for k, v in plain.items()}, source, store)

    if not named["evaluate"] and splits and data.split not in splits:
        raise UserError(f"data.split={data.split}: {source.name if source else ''} has {', '.join(splits)}")
    evaluate = named["evaluate"] or tuple(entry for entry in [own(data.split)] if entry)
    if len(named["train"]) > 1 or len(named["validation"]) > 1:
        raise UserError("data.train and data.validation take one collection each; several go to data.evaluate")
    return Entries(
        train=named["train"][0] if named["train"] else own(_training_split(splits)),
        validation=named["validation"][0]
        if named["validation"]
        else own(next((split for split in splits if split in ("dev", "validation", "valid", "val")), None)),
        evaluate=evaluate,
    )


def _named(cfg: DictConfig, role: str) -> tuple[Entry, ...]:
    found = []
    for name, overrides in cfg.data[role].items():
        _check_entry(cfg, f"data.{role}.{name}", overrides)
        one = cfg.copy()
        one.data = OmegaConf.merge(cfg.data, {"name": name}, overrides, {"train": {}, "validation": {}, "evaluate": {}})
        plain = OmegaConf.to_container(one.data, resolve=True)
        assert isinstance(plain, dict)
        found.append(
            Entry(str(name), one.data.split, {str(k): v for k, v in plain.items()}, _source(one), Path(cfg.store))
        )
    return tuple(found)


def _check_entry(cfg: DictConfig, key: str, overrides: Any) -> None:
    """An entry is a mapping of keys that ``data`` has."""
    if not isinstance(overrides, DictConfig):
        raise UserError(f"{key}={overrides}: the value must be a mapping, such as {{split: test}}")
    for name in map(str, overrides):
        if name not in cfg.data:
            raise UserError(f"{key}.{name}: there is no such key{did_you_mean(name, map(str, cfg.data))}")


def _source(cfg: DictConfig) -> Source:
    source: Source = build(cfg.data.source)
    return source


def _training_split(splits: Sequence[str]) -> str | None:
    """The split to train on by shorthand: train, or all queries of a collection without judgements."""
    if "train" in splits:
        return "train"
    return splits[0] if list(splits) == [ALL] else None
