"""What a folder of another library says about the late-interaction model in it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.marked_tokens import Marking
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.interop.module_files import ROUTES, longest, read_json

STANFORD, METADATA = "HF_ColBERT", "artifact.metadata"
PYLATE = "ColBERT"
MODULES = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
QUERY_LENGTH, PASSAGE_LENGTH = 32, 180  # where a folder does not say


@dataclass(frozen=True)
class Layout:
    """Where the encoder lies and how texts are read."""

    encoder: Path
    marking: Marking
    sides: Mapping[Side, SideSettings]
    skip: Sequence[str]


def is_late_interaction(folder: Path) -> bool:
    """Whether it is a folder of Stanford's ColBERT, of PyLate, or of a MultiVectorEncoder."""
    if not (folder / "modules.json").is_file():
        return _is_stanford(folder)
    return _is_pylate(folder) or "MultiVectorMask" in _kinds(read_json(folder / "modules.json"))


def read_layout(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Layout:
    """By the folder's own settings."""
    if not (folder / "modules.json").is_file():
        return _stanford(folder)
    return _pylate(folder) if _is_pylate(folder) else _multi_vector(folder, tokenizer)


def encoder_folder(folder: Path) -> Path:
    """Where the encoder's own files are."""
    modules = read_json(folder / "modules.json") or [{"path": ""}]
    return folder / str(modules[0]["path"])


def _is_stanford(folder: Path) -> bool:
    return STANFORD in (read_json(folder / "config.json").get("architectures") or [])


def _is_pylate(folder: Path) -> bool:
    settings = read_json(folder / "config_sentence_transformers.json")
    return settings.get("model_type") == PYLATE or "query_prefix" in settings


def _stanford(folder: Path) -> Layout:
    settings = read_json(folder / METADATA)
    skip = string.punctuation if settings.get("mask_punctuation", True) else ""
    return Layout(
        folder,
        Marking(
            settings.get("query_token_id") or "[unused0]",
            settings.get("doc_token_id") or "[unused1]",
            augment=True,
            attend_to_mask=bool(settings.get("attend_to_mask_tokens")),
        ),
        {
            Side.QUERY: SideSettings("", int(settings.get("query_maxlen") or QUERY_LENGTH)),
            Side.PASSAGE: SideSettings("", int(settings.get("doc_maxlen") or PASSAGE_LENGTH)),
        },
        tuple(skip),
    )


def _pylate(folder: Path) -> Layout:
    settings = read_json(folder / "config_sentence_transformers.json")
    _check_modules(folder, ("Transformer", "Dense"))
    augment = settings.get("do_query_expansion") is not False
    skip = settings.get("skiplist_words")
    marks = (settings.get(f"{ROUTES[side]}_prefix") for side in Side)
    query, passage = (default if mark is None else mark for mark, default in zip(marks, ("[Q] ", "[D] "), strict=True))
    return Layout(
        encoder_folder(folder),
        Marking(query, passage, augment, augment and bool(settings.get("attend_to_expansion_tokens"))),
        {
            Side.QUERY: SideSettings("", int(settings.get("query_length") or QUERY_LENGTH)),
            Side.PASSAGE: SideSettings("", int(settings.get("document_length") or PASSAGE_LENGTH)),
        },
        tuple(string.punctuation if skip is None else skip),
    )


def _multi_vector(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Layout:
    _check_modules(folder, MODULES)
    settings = read_json(folder / "config_sentence_transformers.json")
    if settings.get("similarity_fn_name") not in (None, "maxsim"):
        raise UserError(f"{folder}: compares by {settings['similarity_fn_name']}; read is maxsim")
    encoder = encoder_folder(folder)
    text = read_json(encoder / "sentence_bert_config.json")
    expansion = _expansion(folder, text)
    most = longest(encoder, text)
    lengths = {Side.QUERY: text.get("query_length"), Side.PASSAGE: text.get("document_length")}
    if expansion is not None:
        lengths[Side.QUERY] = expansion["length"]
    prompts = settings.get("prompts") or {}
    marked = {side: _split(prompts.get(ROUTES[side]) or "", tokenizer) for side in Side}
    return Layout(
        encoder,
        Marking(
            marked[Side.QUERY][0],
            marked[Side.PASSAGE][0],
            augment=expansion is not None,
            attend_to_mask=expansion is not None and bool(expansion.get("attend")),
        ),
        {side: SideSettings(marked[side][1], int(lengths[side] or most)) for side in Side},
        _skipped(folder),
    )


def _expansion(folder: Path, text: Mapping[str, Any]) -> dict[str, Any] | None:
    expansion: dict[str, Any] | None = text.get("query_expansion")
    if expansion is None:
        return None
    if expansion.get("strategy") != "fixed" or expansion.get("token") is not None:
        raise UserError(f"{folder}: fills queries up by {expansion}; read is a fixed length with the mask token")
    return expansion


def _skipped(folder: Path) -> tuple[str, ...]:
    path = folder / str(read_json(folder / "modules.json")[MODULES.index("MultiVectorMask")]["path"])
    mask = read_json(path / "config.json")
    if mask.get("keep_only_token_ids") or mask.get("skiplist_tasks", ["document"]) != ["document"]:
        raise UserError(
            f"{path}: keeps chosen tokens, or skips tokens of queries; read are tokens of documents to skip"
        )
    return tuple(mask.get("skiplist_words") or ())


def _split(prompt: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Marker and prompt: a token that was added to the tokenizer is found in text as a whole."""
    added = tokenizer.get_added_vocab()
    for marker in (prompt, *prompt.split(None, 1)[:1]):
        if marker in added:
            return marker, prompt.removeprefix(marker).lstrip()
    return "", prompt


def _check_modules(folder: Path, expected: Sequence[str]) -> None:
    kinds = _kinds(read_json(folder / "modules.json"))
    if kinds != list(expected):
        raise UserError(f"model={folder}: its modules are {', '.join(kinds)}; read are {', '.join(expected)}")


def _kinds(modules: Sequence[Mapping[str, str]]) -> list[str]:
    return [module["type"].rsplit(".", 1)[-1] for module in modules]
