"""One configuration from the conf folder and a command's overrides; each mistake is told in one line.

Hydra composes what the selected options say; the ``key=value`` overrides are then laid over it here, where the default
that each one replaces is still known. The composed configuration says what it came from: ``overrides`` as
they were given, and ``options``, what was selected for each group.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.conf_tree import conf_dir, did_you_mean

__all__ = ["changed", "compose", "compose_stage", "conf_dir", "plain", "read_override"]

MISSING = "???"
RECORDED = ("overrides", "options")  # what the configuration says of itself
# Lightning takes a number, a list or a word; splits are one or several; pacing a number, one for each member, or null.
ANY_TYPE = frozenset({"trainer.devices", "data.split", "pacing.temperature"})
NULLABLE = frozenset({"student.start_terms"})  # numbers by default that may be none
KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str, int, float)),  # data.split=2024
    list: ("a list, [a,b]", (list,)),
    dict: ("a mapping, {key: value}", (dict,)),
}


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that every verb works with; of two overrides of one key, the later wins."""
    return _compose(tuple(overrides), forgiven=frozenset())


def compose_stage(stage: Sequence[str], command: Sequence[str]) -> DictConfig:
    """A stage's overrides, and over them the command's.

    The command may set keys that this stage does not have; and what the stage sets of an option is left out where the
    command selects another one of its group.
    """
    selected = {override.key_or_group for override in map(_parse_one, command)} & set(conf_tree.options())
    idle = {text for text in stage if _parse_one(text).key_or_group.partition(".")[0] in selected}
    return _compose((*stage, *command), forgiven=(frozenset(command) - frozenset(stage)) | idle)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved dicts and lists: what may go into checkpoints, loggers and files."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))


def changed(cfg: DictConfig, changes: Mapping[str, Any], **groups: str | DictConfig) -> DictConfig:
    """The config with other values, and with other options in some groups, by name or as they are."""
    changed = cfg.copy()
    for key, value in changes.items():
        OmegaConf.update(changed, key, value)
    with open_dict(changed):
        for group, option in groups.items():
            changed[group] = conf_tree.load(f"{group}/{option}") if isinstance(option, str) else option
    return changed


def _compose(overrides: tuple[str, ...], forgiven: frozenset[str]) -> DictConfig:
    selections, values = _parse(overrides)
    cfg: DictConfig = pickle.loads(_selected(conf_dir(), selections))
    for override in values:
        _lay_over(cfg, override, forgiven)
    _refuse_missing(cfg)
    _refuse_broken_interpolations(cfg)
    with open_dict(cfg):
        cfg.overrides = list(overrides)
    return cfg


def _parse(overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
    """Selections of options, the last one of each group, and the overrides of values."""
    groups = conf_tree.options()
    selections: dict[str, str] = {}
    values = []
    for text in overrides:
        override = _parse_one(text)
        key = override.key_or_group
        if override.package is None and key not in groups:
            values.append(override)
            continue
        _refuse_unknown_option(override, groups)
        name = override.get_key_element().lstrip("+~")
        selections.pop(name, None)
        selections[name] = f"~{name}" if _is_null(override) else text
    return tuple(selections.values()), values


def _parse_one(text: str) -> Override:
    override = read_override(text)
    if override.is_sweep_override():
        raise UserError(f"{text}: several values are a sweep; add -m to run it, or write a list: [a,b]")
    return override


@lru_cache(maxsize=1024)
def read_override(text: str) -> Override:
    """One override as Hydra's parser reads it, of one value or of several; it is not to be changed."""
    key, equals, value = text.partition("=")
    if not (equals or text.startswith("~")) or not key.strip("+~"):
        raise UserError(f"{text!r} is not an override; write key=value or group=option")
    try:
        return OverridesParser.create().parse_override(text)
    except (OverrideParseException, HydraException, OmegaConfBaseException) as error:
        quoted = value.replace("'", "")
        how = f"text with special characters goes into quotes: \"{key}='{quoted}'\""
        raise UserError(f"{key}: the value {value!r} cannot be read; {how}") from error


def _is_null(override: Override) -> bool:
    return not override.is_delete() and override.value() is None


def _refuse_unknown_option(override: Override, groups: Mapping[str, list[str]]) -> None:
    group = override.key_or_group
    if group not in groups:
        raise UserError(f"{group}: there is no such group{did_you_mean(group, groups)}")
    if override.is_delete():
        return
    known = groups[group]
    if _is_null(override):
        if group in conf_tree.selected_by_default():
            raise UserError(f"{group}=null: an option must be named: {', '.join(known)}")
        return
    value = override.value()
    for name in value if isinstance(value, list) else [value]:
        if str(name) not in known:
            meant = did_you_mean(str(name), known)
            raise UserError(f"{group}={name}: {group} has the options {', '.join(known)}{meant}")


@lru_cache(maxsize=64)
def _selected(root: Path, selections: tuple[str, ...]) -> bytes:
    """What the selected options say, without a value of the command line; pickled, as copies take far longer."""
    outer = GlobalHydra.instance().hydra  # that of a sweep, whose job composes here
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(root), version_base="1.3"):
            cfg = hydra.compose("config", overrides=list(selections), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().hydra = outer
    choices = {group: name for group, name in cfg.hydra.runtime.choices.items() if not group.startswith("hydra/")}
    with open_dict(cfg):
        del cfg["hydra"]
        for group in conf_tree.multi_select():
            cfg[group] = cfg.get(group) or {}
            for name in _drop_unselected(cfg[group], group):
                choices = {key: value for key, value in choices.items() if f"@{group}.{name}." not in f"{key}."}
            choices[group] = list(cfg[group])
        _drop_settings_of_others(cfg, choices, selections)
        cfg.options = choices
    return pickle.dumps(cfg)


def _drop_unselected(nodes: DictConfig, group: str) -> list[str]:
    """Leave out what an experiment sets of options that the command did not select, which have no target: these."""
    known = conf_tree.options().get(group, [])
    dropped = [name for name in known if name in nodes and "_target_" not in nodes[name]]
    for name in dropped:
        del nodes[name]
    return dropped


def _drop_settings_of_others(cfg: DictConfig, choices: Mapping[str, Any], selections: Sequence[str]) -> None:
    """Leave out what the experiment sets of an option in whose place the command selected another one."""
    said = conf_tree.load(f"experiment/{choices['experiment']}") if choices.get("experiment") else {}
    for group in {text.lstrip("+~").partition("=")[0] for text in selections} - set(conf_tree.multi_select()):
        option = f"{group}/{choices.get(group)}"
        for key in said.get(group) or ():
            if isinstance(cfg.get(group), DictConfig) and key in cfg[group] and not conf_tree.has_key(option, key):
                del cfg[group][key]


def _one_line(error: Exception) -> str:
    """Hydra's message without its advice on search paths."""
    text = str(error).partition("Config search path")[0]
    return " ".join(text.split()).replace("In 'config': ", "")


def _lay_over(cfg: DictConfig, override: Override, forgiven: frozenset[str]) -> None:
    key = override.key_or_group
    text = override.input_line or key
    found, default = _find(_tree(cfg, key.partition(".")[0]), key)
    opened = override.is_add() or override.is_force_add() or (not found and default == {})
    if not found and not opened:
        if text in forgiven:
            return
        raise UserError(_unknown_key(cfg, _tree(cfg), key))
    value = None if override.is_delete() else override.value()
    try:
        if override.is_delete():
            _delete(cfg, key)
            return
        if found:
            _refuse_wrong_type(cfg, key, default, value)
        value = str(value) if _as_text(default, value) else value
        OmegaConf.update(cfg, key, value, merge=True, force_add=opened or default == {})
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise UserError(_unknown_key(cfg, _tree(cfg), error.full_key or key)) from error
    except OmegaConfBaseException as error:
        raise UserError(f"{text}: {_one_line(error)}") from error


def _tree(cfg: DictConfig, only: str = "") -> dict[str, Any]:
    """All that was not recorded, or one branch of it: to convert everything for each override takes its time."""
    known = only in cfg and only not in RECORDED
    if known and not OmegaConf.is_interpolation(cfg, only) and OmegaConf.is_config(cfg.get(only)):
        return {only: OmegaConf.to_container(cfg[only], resolve=False)}
    tree = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    return {name: value for name, value in tree.items() if name not in RECORDED}


def _delete(cfg: DictConfig, key: str) -> None:
    parent, _, last = key.rpartition(".")
    with open_dict(cfg):
        del (OmegaConf.select(cfg, parent) if parent else cfg)[last]


def _find(tree: Any, key: str) -> tuple[bool, Any]:
    """Whether the key is there, and its default; if it is not, what stands where the path ends."""
    for part in key.split("."):
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return False, tree
    return True, tree


def _open(value: Any) -> bool:
    """Whether a default says nothing about the type."""
    return value is None or (isinstance(value, str) and (value == MISSING or "${" in value))


def _as_text(default: Any, value: Any) -> bool:
    return isinstance(default, str) and not _open(default) and isinstance(value, int | float)


def _refuse_wrong_type(cfg: DictConfig, key: str, default: Any, value: Any) -> None:
    if key in ANY_TYPE or _open(default) or (isinstance(value, str) and "${" in value):
        return
    if value is None and (isinstance(default, dict) or key in NULLABLE or _null_at_home(key)):
        return  # a part that is switched off, or a number that only a scale sets
    expected, fitting = KINDS[type(default)]
    if isinstance(value, fitting) and (isinstance(default, bool) or not isinstance(value, bool)):
        return
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    group = next((name for name in cfg.options if name.partition("@")[2] == key), None)
    if group:
        raise UserError(f"{key}={shown}: this is an option of a group; select it by {group}={shown}")
    instead = "" if isinstance(default, dict) else f" (the default is {_shown(default)})"
    raise UserError(f"{key}={shown}: the value must be {expected}{instead}")


def _null_at_home(key: str) -> bool:
    try:
        return conf_tree.own_default(key)[0] is None
    except KeyError:
        return False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _unknown_key(cfg: DictConfig, tree: Any, key: str) -> str:
    """What to write instead of a key that the composed configuration does not have."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        target = _find(tree, ".".join(parts[:length]))[1]
        if isinstance(target, str) and (match := re.fullmatch(r"\$\{(\w[\w.]*)\}", target)):
            return f"{key}: {'.'.join(parts[:length])} is {target}; set {'.'.join([match[1], *parts[length:]])}"
    return _selectable(cfg, parts) or f"{key}: there is no such key" + did_you_mean(
        key, [*(name for name, _ in _entries(tree)), *conf_tree.options()]
    )


def _selectable(cfg: DictConfig, parts: Sequence[str]) -> str | None:
    """Which option to select, if another one has the key."""
    group, key = parts[0], ".".join(parts)
    known = conf_tree.options().get(group, [])
    if len(parts) < 2 or parts[1] in cfg.get(group, {}):
        return None
    if group in conf_tree.multi_select() and parts[1] in known:
        return f"{key}: {parts[1]} is not selected; select it by {group}=[{','.join([*cfg[group], parts[1]])}]"
    having = [name for name in known if conf_tree.has_key(f"{group}/{name}", parts[1])]
    return f"{key}: {group}={cfg.options.get(group)} has no such key; {group}={having[0]} has" if having else None


def _entries(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, those of mappings too, with its value."""
    for name, value in tree.items():
        if not str(name).startswith("_"):
            yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{name}.")


def _refuse_missing(cfg: DictConfig) -> None:
    missing = [key for key, value in _entries(OmegaConf.to_container(cfg, resolve=False)) if value == MISSING]
    if not missing:
        return
    group = missing[0].partition(".")[0]
    option = cfg.options.get(group)
    about = conf_tree.head(f"{group}/{option}").rstrip(".") if isinstance(option, str) else ""
    who = f"{group}={option} needs " if option else "needed: "
    raise UserError(who + " ".join(f"{key}=…" for key in missing) + (f" ({about})" if about else ""))


def _refuse_broken_interpolations(cfg: DictConfig) -> None:
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the configuration"
        raise UserError(f"{key}: {_one_line(error).partition(' full_key:')[0]}") from error
