"""Which collections a config names for training, validation and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import Source, UserError
from retrieval_kd.data.collections import (
    NONE,
    Collection,
    collection_digest,
    open_collection,
    passages_digest,
    titles_of,
)
from retrieval_kd.data.folder import ALL
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.conf_tree import did_you_mean
from retrieval_kd.pipeline.needs import TEACHER_TOP, needs_of

# What splits are called, the commonest first.
TRAINING = ("train", "training")
VALIDATION = ("dev", "validation", "valid", "val")


@dataclass(frozen=True)
class Entry:
    """One collection and split, opened when asked."""

    name: str
    split: str
    data: Mapping[str, Any]
    source: Source
    store: Path
    weight: float | None = None  # of several training collections: this one's share of the batches

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
        return passages_digest(self.source, self.data["titles"], self.data["limit"])

    @cached_property
    def collection(self) -> Collection:
        """The collection itself."""
        return open_collection(self.source, self.split, self.store, **self._options)

    def titles(self, ids: Iterable[str]) -> dict[str, str]:
        """Titles of some passages, where texts begin with them."""
        return titles_of(self.source, ids) if self.data["titles"] else {}

    @property
    def _options(self) -> dict[str, Any]:
        return {name: self.data[name] for name in ("titles", "limit", "judgements", "unknown")}


@dataclass(frozen=True)
class Entries:
    """Where a run learns, watches and is measured."""

    train: tuple[Entry, ...]
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
    if len(named["validation"]) > 1:
        raise UserError("data.validation takes one collection; several go to data.evaluate")
    return Entries(
        train=named["train"] or tuple(entry for entry in [own(_training_split(splits))] if entry),
        validation=named["validation"][0] if named["validation"] else own(_first(VALIDATION, splits)),
        evaluate=evaluate,
    )


def _named(cfg: DictConfig, role: str) -> tuple[Entry, ...]:
    found = []
    for name, given in cfg.data[role].items():
        weight, overrides = _weight(f"data.{role}.{name}", given) if role == "train" else (None, given)
        _check_entry(cfg, f"data.{role}.{name}", overrides)
        one = cfg.copy()
        one.data = OmegaConf.merge(cfg.data, {"name": name}, overrides, {"train": {}, "validation": {}, "evaluate": {}})
        plain = OmegaConf.to_container(one.data, resolve=True)
        assert isinstance(plain, dict)
        found.append(
            Entry(
                str(name), one.data.split, {str(k): v for k, v in plain.items()}, _source(one), Path(cfg.store), weight
            )
        )
    weighted = [entry.weight is not None for entry in found]
    if any(weighted) and not all(weighted):
        raise UserError(f"data.train.{found[weighted.index(False)].name}: give every collection a weight, or none")
    return tuple(found)


def _weight(key: str, given: Any) -> tuple[float | None, Any]:
    """A training collection's share of the batches, and what else is said of it."""
    if not isinstance(given, DictConfig) or given.get("weight") is None:
        return None, given
    weight = given.weight
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise UserError(f"{key}.weight={weight}: a number above 0 is needed, the collection's share of the batches")
    return float(weight), OmegaConf.create({name: value for name, value in given.items() if name != "weight"})


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
    if list(splits) == [ALL]:
        return ALL
    return _first(TRAINING, splits)


def _first(names: Sequence[str], splits: Sequence[str]) -> str | None:
    return next((name for name in names if name in splits), None)


def refuse_unjudged(found: Sequence[Entry], objective: Mapping[str, Any], negatives: Mapping[str, Any]) -> None:
    """Terms and negatives that ask for judgements, on collections that have none."""
    hard = [name for name, term in objective.items() if "judgements" in needs_of(term)]
    bare = [entry.label for entry in found if not entry.judged]
    if hard and bare:
        own = f"objective.{hard[0]}.positive={TEACHER_TOP} or " if "positive" in objective[hard[0]] else ""
        raise UserError(
            f"objective={hard[0]} needs judgements, and {bare[0]} has none; {own}soft labels alone would fit, such as"
            " objective=[listwise_kl]"
        )
    if bare and negatives.get("consistent") is not None:
        raise UserError(f"negatives.consistent needs judgements, and {bare[0]} has none; null would fit")
