"""Where a composed configuration's values come from: the command line, a stage, or one of the conf files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from retrieval_kd.pipeline import conf_tree

COMMAND_LINE = "command line"
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Origins:
    """Says of each key of one composed configuration who gave it its value.

    Args:
        cfg: As ``compose`` or ``compose_stage`` made it.
        stage: The recipe's stage, if it has overrides of its own.
        of_stage: How many of the recorded overrides are the stage's; they come first.
    """

    def __init__(self, cfg: DictConfig, stage: str = "", of_stage: int = 0) -> None:
        tree = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(tree, dict)
        self._tree = tree
        self._stage, self._of_stage = stage, of_stage
        self._said = _values_said(list(cfg.overrides))
        self._files = _files(tree["options"])

    def of(self, key: str) -> str:
        """``command line``, ``stage NAME`` or ``conf/…yaml``; a reference to another key has that key's origin."""
        key, value = self._follow(key)
        for position, name, given in reversed(self._said):
            if name == key or (key.startswith(f"{name}.") and _has(given, key.removeprefix(f"{name}."))):
                return f"stage {self._stage}" if position < self._of_stage else COMMAND_LINE
        having = [
            (file, found)
            for package, name in self._files
            if key.startswith(package)
            for file, found in _look_up(name, key.removeprefix(package))
        ]
        # A file that another one overrides has the key too, but with another value.
        return next((f"conf/{file}.yaml" for file, found in having if found == value), _first(having))

    def summary(self, keys: Mapping[str, str]) -> str:
        """One phrase for the origins of several keys, given by their short names: the commonest, then exceptions."""
        origins = {short: self.of(key) for short, key in keys.items()}
        if not origins:
            return ""
        commonest = Counter(origins.values()).most_common(1)[0][0]
        others: dict[str, list[str]] = {}
        for short, origin in origins.items():
            if origin != commonest:
                others.setdefault(origin, []).append(short)
        return "; ".join([commonest, *(f"{', '.join(shorts)}: {origin}" for origin, shorts in others.items())])

    def _follow(self, key: str) -> tuple[str, Any]:
        """The key that holds the value, past references, and what stands there."""
        value: Any = self._tree
        parts = key.split(".")
        for depth, part in enumerate(parts, 1):
            value = value.get(part) if isinstance(value, Mapping) else None
            reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if reference:
                return self._follow(".".join([reference[1], *parts[depth:]]))
        return key, value


def _values_said(overrides: list[str]) -> list[tuple[int, str, Any]]:
    """Overrides of values, not selections of options, with their positions."""
    parser, groups = OverridesParser.create(), conf_tree.options()
    said = []
    for position, text in enumerate(overrides):
        override = parser.parse_override(text)
        if override.package is None and override.key_or_group not in groups and not override.is_delete():
            said.append((position, override.key_or_group, override.value()))
    return said


def _files(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The selected files, each with the prefix of its keys; what wins in the configuration comes first."""
    found = []
    for group, chosen in options.items():
        folder, _, package = group.partition("@")
        for name in chosen if isinstance(chosen, list) else [chosen] if chosen else []:
            file = f"{folder}/{name}"
            everywhere = (conf_tree.conf_dir() / f"{file}.yaml").read_text("utf-8").startswith("# @package _global_")
            found.append(("" if everywhere else f"{package or folder.replace('/', '.')}.", file))
    order = {"experiment": 0, "scale": 1}
    found.sort(key=lambda one: (order.get(one[1].partition("/")[0], 2), -len(one[0])))
    return [*found, ("", "config")]


def _look_up(name: str, key: str) -> Iterator[tuple[str, Any]]:
    """The file and those that it builds on, where they have the key, with its value."""
    content = conf_tree.load(name)
    if _has(content, key):
        value: Any = content
        for part in key.split("."):
            value = value[part]
        yield name, value
    for parent in content.get("defaults", []) if name != "config" else []:
        if isinstance(parent, str) and parent != "_self_":
            folder = name.rpartition("/")[0]
            yield from _look_up(parent[1:] if parent.startswith("/") else f"{folder}/{parent}", key)


def _has(value: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _first(having: list[tuple[str, Any]]) -> str:
    return f"conf/{having[0][0]}.yaml" if having else "composed"
