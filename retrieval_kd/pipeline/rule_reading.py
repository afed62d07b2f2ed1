"""What the rules read in a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrieval_kd.contracts import Signal
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.needs import OF_TOKENS, needs_of

Config = Mapping[str, Any]


def nodes(node: Any, path: str) -> Iterator[tuple[str, Config]]:
    """Every mapping with a ``_target_``, nested ones too."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}")


def option(config: Config, group: str) -> str:
    """What is selected of a group."""
    return str(config.get("options", {}).get(group, "(own)"))


def soft(config: Config) -> list[Config]:
    """The terms that ask a teacher."""
    return [term for term in config["objective"].values() if needs_of(term) - {Signal.JUDGEMENTS.value}]


def hard(term: Config) -> bool:
    """Terms that need scores beside judgements are soft: they do not ask the filter."""
    needs = term.get("needs", [])
    return Signal.JUDGEMENTS in needs and Signal.SCORE not in needs


def judged(config: Config) -> bool:
    """Whether some training data has judgements."""
    data = config["data"]
    entries = list((data.get("train") or {}).values()) or [data]
    settings = (entry.get("judgements", data.get("judgements")) for entry in entries if isinstance(entry, Mapping))
    return Signal.JUDGEMENTS in data.get("gives", [Signal.JUDGEMENTS]) and any(value != "none" for value in settings)


def gives(teacher: Config) -> list[str]:
    """A teacher's signals; those of tokens are of a single scorer, for there is nothing that could combine them."""
    scorer = teacher.get("base", teacher).get("scorer", {})
    return [*teacher.get("gives", ()), *(sorted(OF_TOKENS) if scorer.get("white_box") else [])]


def fitting(signal: str, path: str) -> str:
    """What gives a signal to a part."""
    options, load = conf_tree.options(), conf_tree.load
    names = [f"teacher={name}" for name in options["teacher"] if signal in load(f"teacher/{name}").get("gives", ())]
    if signal in OF_TOKENS:
        white = [name for name in options["scorer"] if load(f"scorer/{name}").get("white_box")]
        names += [f"teacher=pointwise scorer@teacher.scorer={name}" for name in white]
        names += [f"+teacher@{path}.teacher=pointwise, a teacher of its own,"]
    return f"{' or '.join(names)} would fit" if names else "no teacher here gives it"


def tokenizer(node: Any) -> str | None:
    """The first one named in a node or below it."""
    if not isinstance(node, Mapping):
        return None
    if isinstance(node.get("tokenizer"), str):
        return str(node["tokenizer"])
    return next((found for found in map(tokenizer, node.values()) if found), None)
