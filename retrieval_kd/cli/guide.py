"""What ``--help`` prints, from the verbs' own texts and the files of the conf folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from retrieval_kd.pipeline import conf_tree

USAGE = "retrieval-kd VERB [group=option] [key=value] …"
WIDTH = 116


def overview(verbs: Mapping[str, str]) -> str:
    """Every verb with its first line."""
    width = max(map(len, verbs))
    return "\n".join(
        [
            f"usage: {USAGE}",
            "",
            *(f"  {verb:{width}}  {text.partition(chr(10))[0]}" for verb, text in verbs.items()),
            "",
            "retrieval-kd VERB --help shows its options; -m runs every combination of key=a,b as a job of its own.",
        ]
    )


def verb_help(verb: str, text: str) -> str:
    """A verb's text; if it takes a configuration, the groups with their options and the keys that matter most."""
    keys = getattr(importlib.import_module(f"retrieval_kd.cli.{verb}"), "KEYS", ())
    lines = [text.rstrip()]
    if keys:
        lines += ["", "groups (* is the default; objective takes several: objective=[a,b]):", *_groups()]
        lines += ["", "keys, with their defaults (retrieval-kd explain shows all of them):", *_keys(keys)]
    return "\n".join(lines)


def _groups() -> list[str]:
    chosen, known = conf_tree.selected_by_default(), conf_tree.options()
    width = max(map(len, known))
    lines = []
    for group, names in known.items():
        marked = [f"{name}*" if name in chosen.get(group, ()) else name for name in names]
        line = f"  {group:{width}} "
        for word in marked:
            if len(line) + len(word) + 1 > WIDTH:
                lines.append(line)
                line = " " * (width + 3)
            line += f" {word}"
        lines.append(line)
    return lines


def _keys(keys: tuple[str, ...]) -> list[str]:
    shown = []
    for key in keys:
        try:
            value, comment = conf_tree.default_of(key)
        except KeyError:
            continue  # a key of an option that is not the default
        shown.append((f"  {key}={_spelled(value)}", comment))
    width = max(len(setting) for setting, _ in shown)
    return [f"{setting:{width}}  {comment}".rstrip() for setting, comment in shown]


def _spelled(value: object) -> str:
    """As a command line spells it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spelled(inner)}" for key, inner in value.items()) + "}"
    return "''" if value == "" else str(value)
