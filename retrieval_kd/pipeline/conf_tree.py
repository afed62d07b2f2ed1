"""The conf folder as files: groups are folders, options are files. Needs no Hydra, so help is quick."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is installed


def conf_dir() -> Path:
    """Inside the package where a wheel put it, else beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parent / "conf"


def options() -> dict[str, list[str]]:
    """Option names by group, nested groups by their path: ``{"student": ["dense", …], …}``."""
    root = conf_dir()
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.yaml")):
        if path.parent != root:
            found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path.stem)
    return found


@cache
def load(name: str) -> dict[str, Any]:
    """One file of the tree as plain data, ``load("trainer/cpu")``; it is not to be written to."""
    return yaml.load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"), LOADER) or {}


def selected_by_default() -> dict[str, list[str]]:
    """The options that config.yaml selects, by group."""
    chosen: dict[str, list[str]] = {}
    for entry in load("config")["defaults"]:
        if isinstance(entry, Mapping):
            (group, names), *_ = entry.items()
            if names is not None and not group.startswith("override "):
                chosen[group] = names if isinstance(names, list) else [names]
    return chosen


def multi_select() -> list[str]:
    """The groups that take several options at once, ``objective=[contrastive,listwise_kl]``."""
    entries = [entry for entry in load("config")["defaults"] if isinstance(entry, Mapping)]
    return [group for entry in entries for group, names in entry.items() if isinstance(names, list)]


def has_key(name: str, key: str) -> bool:
    """Whether an option has a key at its top: its own, by a group that it places there, or of one that it builds on."""
    content = load(name)
    defaults = [entry for entry in content.get("defaults", []) if entry != "_self_"]
    placed = (group for entry in defaults if isinstance(entry, Mapping) for group in entry)
    built_on = (f"{name.rpartition('/')[0]}/{entry}" for entry in defaults if isinstance(entry, str))
    return (
        key in content
        or any(group.partition("@")[2].partition(".")[0] == key for group in placed)
        or any(has_key(option, key) for option in built_on)
    )


def default_of(key: str) -> tuple[Any, str]:
    """A key's value without any override, and the comment that stands behind it; KeyError if there is none."""
    value, comment = own_default(key)
    for scale in selected_by_default().get("scale", []):  # a scale sets numbers of other groups
        try:
            value = _look_up(f"scale/{scale}", key)[0]
        except KeyError:
            continue
    return value, comment


def own_default(key: str) -> tuple[Any, str]:
    """What the key's own group says, before a scale or an experiment does."""
    group, _, rest = key.partition(".")
    if group in load("config"):
        return _look_up("config", key)
    for name in selected_by_default().get(group, []):
        try:
            return _look_up(f"{group}/{name}", rest)
        except KeyError:
            continue
    raise KeyError(key)


def head(name: str) -> str:
    """The comment that opens an option's file; empty if there is none."""
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines[:2] if line.startswith("# ") and not line.startswith("# @")]
    return comments[0].removeprefix("# ") if comments else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant; for dotted keys the last part may be enough: ``lr`` means ``optimizer.lr``."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    last = word.rpartition(".")[2]
    by_last: dict[str, str] = {}
    for key in known:
        by_last.setdefault(key.rpartition(".")[2], key)
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.8)
    return by_last[close[0]] if close else next(iter(difflib.get_close_matches(word, known, n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` or nothing."""
    meant = nearest(word, known)
    return f"; did you mean {meant}?" if meant else ""


def _look_up(name: str, key: str) -> tuple[Any, str]:
    value: Any = load(name)
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            break
        value = value[part]
    else:
        return value, _comment(name, key.rpartition(".")[2])
    for parent in load(name).get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            return _look_up(f"{name.rpartition('/')[0]}/{parent}", key)
    raise KeyError(key)


def _comment(name: str, key: str) -> str:
    text = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    match = re.search(rf"^\s*{re.escape(key)}:[^#\n]*#\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else ""
