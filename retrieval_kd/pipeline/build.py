"""Objects from configuration nodes that name their class by ``_target_``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import UserError

METADATA = frozenset(
    {
        "extra",
        "gives",
        "holds",
        "made",
        "makes",
        "needs",
        "package",
        "penalises",
        "provenance",
        "reads",
        "refit",
        "score_kind",
        "searches",
        "shared_space",
        "suits",
        "takes",
        "teacher",
        "tokenizer",
        "tracks",
        "train",
        "weight",
        "white_box",
        "words",
        "writer",
    }
)
"""Keys that tell the pipeline about a part; its constructor is not given them."""

RESERVED = frozenset({"_target_", "_partial_", "_args_"})


def build(node: Any, /, **injected: Any) -> Any:
    """The object that a node describes, its nested nodes first; ``injected`` arguments win over the node's.

    With ``_partial_: true`` the result waits for more arguments. Constructors see plain dicts and lists.
    """
    path = ""
    if isinstance(node, DictConfig):
        path = node._get_full_key(None) or ""
        node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return _make(node, path, injected)


def _make(node: Any, path: str, injected: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_make(item, f"{path}[{number}]", {}) for number, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    parts = node
    if "_target_" in node:
        parts = {key: value for key, value in node.items() if key not in METADATA | RESERVED | injected.keys()}
    made = {key: _make(value, f"{path}.{key}" if path else str(key), {}) for key, value in parts.items()}
    if "_target_" not in node:
        return made
    target = _target(node["_target_"], path)
    arguments = _make(node.get("_args_", []), path, {})
    if node.get("_partial_"):
        return partial(target, *arguments, **made, **injected)
    return _call(target, arguments, {**made, **injected}, path or node["_target_"])


def _target(name: str, path: str) -> Callable[..., Any]:
    try:
        target = resolve(name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path or '_target_'}: {name} cannot be imported: {error}") from error
    if not callable(target):
        raise UserError(f"{path or '_target_'}: {name} is not a class or function")
    return target


def resolve(name: str) -> Any:
    """What a dotted path names: a module's class or function."""
    module, _, member = name.rpartition(".")
    if not module:
        raise ImportError("a dotted path, module.Class, is expected")
    return getattr(importlib.import_module(module), member)


def _call(target: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any], path: str) -> Any:
    try:
        signature = inspect.signature(target)
        signature.bind_partial(*arguments, **keywords)  # first, for a misspelt key is also one that is missing
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        name = getattr(target, "__qualname__", repr(target))
        raise UserError(f"{path}: {name}: {error}") from error
    except ValueError:
        pass  # written in C, without a signature
    try:
        return target(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(message if path in message else f"{path}: {message}") from error
