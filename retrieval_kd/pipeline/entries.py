"""Which collections a config names for training, validation and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import Side, Source, UserError
from retrieval_kd.data.collections import (
    NONE,
    Answered,
    Collection,
    collection_digest,
    open_collection,
    passages_digest,
    titles_of,
)
from retrieval_kd.data.folder import ALL
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.conf_tree import did_you_mean
from retrieval_kd.pipeline.needs import TEACHER_TOP, needs_of
from retrieval_kd.pipeline.unread import UNREAD, Unread, unread

# What splits are called, the commonest first.
TRAINING = ("train", "training")
VALIDATION = ("dev", "validation", "valid", "val")
ROLES = ("train", "validation", "evaluate")
OPTION = "data"  # the key of an entry that names another option than the command's
CARRIED = ("limit", "download", "verify")  # said once for the whole command
OWN_LENGTH = "own"
MEAN = ("mean", "all")  # what results call the mean over collections


@dataclass(frozen=True)
class Entry:
    """One collection and split, opened when asked."""

    name: str
    split: str
    data: Mapping[str, Any]
    source: Source
    store: Path
    weight: float | None = None  # of several training collections: this one's share of the batches
    group: str | None = None  # of a set of collections that is evaluated as one, by its mean

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
        """Whether there are judgements."""
        return self.data["judgements"] != NONE and self.source.judgements(self.split) is not None

    @property
    def same_ids(self) -> bool:
        """Whether a query and a passage of the same id are the same text; elsewhere they are numbers by chance."""
        return bool(getattr(self.source, "same_ids", True))

    @cached_property
    def measured(self) -> bool:
        """Whether there is anything to evaluate against: judgements, or answers."""
        return self.judged or isinstance(self.source, Answered)

    @cached_property
    def passages_key(self) -> str:
        """Digest of the passages alone: the splits of a collection share indexes and representations."""
        return passages_digest(self.source, self.data["titles"], self.data["limit"])

    @cached_property
    def collection(self) -> Collection:
        """The collection itself."""
        return open_collection(self.source, self.split, self.store, **self._options)

    def measures(self, asked: Sequence[str]) -> list[str]:
        """What is measured here: what the config asks of all collections, then what this one asks for beside."""
        return list(dict.fromkeys([*asked, *(self.data.get("measures") or ())]))

    def check_measures(self, asked: Sequence[str]) -> None:
        """Refuse measures of answers where there are none."""
        from retrieval_kd.evaluation.measures import asks_answers

        if isinstance(self.source, Answered | Unread):
            return
        for key, names in (("evaluation", asked), ("data", self.data.get("measures") or ())):
            for name in filter(asks_answers, names):
                raise UserError(
                    f"{key}.measures: {name} is of questions with answers, and {self.label} has none; those of data=nq"
                    " have"
                )

    @cached_property
    def lengths(self) -> dict[Side, int]:
        """Lengths of this collection's texts, where they are not the student's own."""
        own, given = getattr(self.source, "lengths", {}), self.data.get("lengths") or {}
        found = {side: _length(side, given.get(side.value), own.get(side.value)) for side in Side}
        return {side: length for side, length in found.items() if length is not None}

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
    named = {role: _named(cfg, role) for role in ROLES}
    own = [] if all(named.values()) else _members(cfg)
    alone = own[0] if len(own) == 1 and own[0].group is None else None
    splits = alone.source.splits() if alone else ()
    evaluate = named["evaluate"] or tuple(_over_splits(own))
    if len(named["validation"]) > 1:
        raise UserError("data.validation takes one collection; several go to data.evaluate")

    def of_split(split: str | None) -> Entry | None:
        return replace(alone, split=split) if alone and split is not None else None

    return Entries(
        train=named["train"] or tuple(entry for entry in [of_split(_training_split(splits))] if entry),
        validation=named["validation"][0] if named["validation"] else of_split(_first(VALIDATION, splits)),
        evaluate=_each_once(evaluate),
    )


def absent(cfg: DictConfig) -> list[Source]:
    """Collections whose digests and counts cannot be had in a moment; a source that does not say so is quick."""
    spelled = [one for role in ROLES for one in _spelled(cfg, role)]
    found = spelled if all(cfg.data[role] for role in ROLES) else [*spelled, *_members(cfg)]
    sources = (entry.source for entry in found)
    return [source for source in sources if hasattr(source, "ready") and not source.ready()]


def means(evaluated: Sequence[Entry]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What means are of, by name and split: those of groups, then that over all collections, if they are several."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    collections: dict[str, tuple[str, str]] = {}
    for entry in (entry for entry in evaluated if entry.measured):
        counted = (entry.group or entry.name, entry.split)
        if entry.group:
            found.setdefault(counted, []).append((entry.name, entry.split))
        collections.setdefault(counted[0], counted)  # splits of one collection are not averaged
    return found | ({MEAN: list(collections.values())} if len(collections) > 1 else {})


def _named(cfg: DictConfig, role: str) -> tuple[Entry, ...]:
    found = list(_over_splits(_spelled(cfg, role)))
    weighted = [entry.weight is not None for entry in found]
    if any(weighted) and not all(weighted):
        raise UserError(f"data.train.{found[weighted.index(False)].name}: give every collection a weight, or none")
    return tuple(found)


def _spelled(cfg: DictConfig, role: str) -> list[Entry]:
    """What the config spells out, before splits are chosen."""
    found: list[Entry] = []
    for name, given in cfg.data[role].items():
        weight, overrides = _weight(f"data.{role}.{name}", given) if role == "train" else (None, given)
        base = _base(cfg, f"data.{role}.{name}", overrides)
        one = cfg.copy()
        said = {key: value for key, value in overrides.items() if key != OPTION}
        one.data = OmegaConf.merge(base, {"name": name}, said, {role: {} for role in ROLES})
        members = _members(one, str(name), weight)
        said_here = OmegaConf.select(overrides, "limit.queries") is not None
        found += map(_within, members) if overrides.get(OPTION) and not said_here else members
    return found


def _within(entry: Entry) -> Entry:
    """A limit that was said for the whole command, without splits that this collection does not have."""
    limit = entry.data.get("limit") or {}
    queries, splits = limit.get("queries"), entry.source.splits()
    if not isinstance(queries, dict):
        return entry
    kept = {split: count for split, count in queries.items() if split in splits}
    return replace(entry, data={**entry.data, "limit": {**limit, "queries": kept or None}})


def _members(cfg: DictConfig, name: str | None = None, weight: float | None = None) -> list[Entry]:
    """A collection, or those that a group's name stands for, before a split is chosen."""
    plain = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(plain, dict)
    members = (plain.get("groups") or {}).get(plain["name"])
    if members is None:
        source = _source(cfg)
        data = {str(key): value for key, value in plain.items()}
        return [Entry(name or source.name, "", data, source, Path(cfg.store), weight)]
    found = []
    for member in members:
        if member in plain["groups"]:
            raise UserError(f"data.groups.{plain['name']}: {member} is a group itself; list its members instead")
        one = cfg.copy()
        one.data.name = member
        found += [replace(entry, group=name or plain["name"]) for entry in _members(one, member, weight)]
    return found


def _over_splits(found: Sequence[Entry]) -> Iterator[Entry]:
    """An entry for each split that ``data.split`` names."""
    usual: dict[str, Entry] = {}  # the first of each group whose members' own splits are taken
    for entry in found:
        given = entry.data["split"]
        if given is None:
            given = _usual_split(entry)
            first = usual.setdefault(entry.group, entry) if entry.group else entry
            if _usual_split(first) != given:
                raise UserError(
                    f"data.split=null: of {entry.group}, {first.name} would be read on {_usual_split(first)} and"
                    f" {entry.name} on {given}, and have no mean; name a split that all members have"
                )
        for split in given if isinstance(given, list) else [given]:
            splits = entry.source.splits()
            if splits and split not in splits:
                raise UserError(f"data.split={split}: {entry.name} has {', '.join(splits)}")
            yield replace(entry, split=str(split))


def _usual_split(entry: Entry) -> str:
    return str(getattr(entry.source, "default_split", "test"))


def _length(side: Side, given: Any, own: int | None) -> int | None:
    """A number of tokens, the collection's own, or none of these: the student's."""
    if given is None or given == OWN_LENGTH:
        return own if given else None
    if str(given).isdecimal() and int(given) > 0:
        return int(given)
    raise UserError(
        f"data.lengths.{side.value}={given}: a number of tokens, {OWN_LENGTH} (the collection's), or null (the"
        " student's)"
    )


def _each_once(found: tuple[Entry, ...]) -> tuple[Entry, ...]:
    for label, count in Counter(entry.label for entry in found).items():
        if count > 1:
            raise UserError(f"data.evaluate: {label} stands there {count} times")
    return found


def _base(cfg: DictConfig, key: str, overrides: Any) -> DictConfig:
    """What an entry's keys are laid over: the command's own ``data``, or another option of it."""
    if not isinstance(overrides, DictConfig):
        raise UserError(f"{key}={overrides}: the value must be a mapping, such as {{split: test}}")
    base: DictConfig = cfg.data
    option = overrides.get(OPTION)
    if option is not None:
        known = conf_tree.options()["data"]
        if option not in known:
            raise UserError(f"{key}.{OPTION}={option}: data has the options {', '.join(known)}")
        base = OmegaConf.create(conf_tree.load(f"data/{option}"))
        base.update({name: cfg.data[name] for name in CARRIED if name in base and name in cfg.data})
    for name in map(str, overrides):
        if name != OPTION and name not in base:
            raise UserError(f"{key}.{name}: there is no such key{did_you_mean(name, [OPTION, *map(str, base)])}")
    return base


def _weight(key: str, given: Any) -> tuple[float | None, Any]:
    """A training collection's share of the batches, and what else is said of it."""
    if not isinstance(given, DictConfig) or given.get("weight") is None:
        return None, given
    weight = given.weight
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise UserError(f"{key}.weight={weight}: a number above 0 is needed, the collection's share of the batches")
    return float(weight), OmegaConf.create({name: value for name, value in given.items() if name != "weight"})


def _source(cfg: DictConfig) -> Source:
    if cfg.get(UNREAD):
        return unread(cfg.data)
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
