"""Dense students as folders that sentence-transformers loads and scores the same.

The folder stays a plain Hugging Face model too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.interop.module_files import (
    NORMALIZE,
    ROUTER,
    ROUTES,
    TRANSFORMER,
    SideSettings,
    write_json,
    write_model,
    write_normalize,
    write_transformer_settings,
)
from retrieval_kd.interop.tokenizer_files import write_tokenizer

POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
# Folders of an encoder's modules, the last of them where vectors get unit length.
SHARED = ("", "1_Pooling", "2_Normalize")
SEPARATE = ("0_Transformer", "1_Pooling", "2_Normalize")  # behind the route's name


def write_dense(
    folder: Path,
    encoder: PreTrainedModel | Mapping[Side, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str,
    normalise: bool,
    query: SideSettings,
    passage: SideSettings,
) -> None:
    """Write a student whose sides share one encoder, or have one each, in place.

    Where they share one, sides of different length need release 6.2 to read them (``encode_query`` and
    ``encode_document`` then cut at their own length, plain ``encode`` at the longer one); with equal lengths any
    release 6 does. Encoders of their own lie in a folder each and keep their own length; texts of no named side count
    as passages.

    Args:
        folder: Made if it is missing; files of the same name are overwritten.
        encoder: Any Hugging Face encoder whose first output is token states, or one for each side.
        tokenizer: Not changed: a copy is written with the longer side's length, or each side's own.
        pooling: ``mean`` or ``cls``, over prompt and special tokens too.
        normalise: Whether vectors get unit length; the similarity is then called cosine, else dot.
        query: Prompt and length of queries.
        passage: Prompt and length of passages.
    """
    types: dict[str, str] = {}
    modules = 3 if normalise else 2
    if not isinstance(encoder, Mapping):
        lengths = {} if query.max_length == passage.max_length else _lengths(query, passage)
        longest = max(query.max_length, passage.max_length)
        types |= _write_modules(folder, SHARED[:modules], encoder, tokenizer, pooling, longest, lengths)
        _write_model(folder, list(types.items()), query, passage, normalise)
        return
    structure: dict[str, list[str]] = {}
    for side, settings in ((Side.QUERY, query), (Side.PASSAGE, passage)):
        names = [f"{ROUTES[side]}_{name}" for name in SEPARATE[:modules]]
        types |= _write_modules(folder, names, encoder[side], tokenizer, pooling, settings.max_length, {})
        structure[ROUTES[side]] = names
    parameters = {"default_route": ROUTES[Side.PASSAGE], "allow_empty_key": True, "route_mappings": {}}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    _write_model(folder, [("", ROUTER)], query, passage, normalise)


def _lengths(query: SideSettings, passage: SideSettings) -> dict[str, int]:
    return {"query_length": query.max_length, "document_length": passage.max_length}


def _write_modules(
    folder: Path,
    names: Sequence[str],
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pooling: str,
    length: int,
    lengths: dict[str, int],
) -> dict[str, str]:
    """Write an encoder and what comes behind it to folders of these names; the type of each."""
    _write_encoder(folder / names[0], encoder, tokenizer, length, lengths)
    _write_pooling(folder / names[1], encoder, pooling)
    for name in names[2:]:
        write_normalize(folder / name, "sentence_embedding")
    return dict(zip(names, (TRANSFORMER, POOLING, NORMALIZE), strict=False))


def _write_encoder(
    folder: Path, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, lengths: dict[str, int]
) -> None:
    positions = getattr(encoder.config, "max_position_embeddings", -1)
    if 0 < positions < length:
        raise UserError(f"max_length={length} is more than the {positions} positions of {encoder.config.model_type}")
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder)
    write_tokenizer(folder, tokenizer, length)
    write_transformer_settings(folder, lengths)


def _write_pooling(folder: Path, encoder: PreTrainedModel, pooling: str) -> None:
    if pooling not in ("mean", "cls"):
        raise UserError(f"pooling={pooling} cannot be written for sentence-transformers; mean and cls can")
    settings = {"embedding_dimension": encoder.config.hidden_size, "pooling_mode": pooling, "include_prompt": True}
    write_json(folder / "config.json", settings)


def _write_model(
    folder: Path, chain: list[tuple[str, str]], query: SideSettings, passage: SideSettings, normalise: bool
) -> None:
    prompts = {Side.QUERY: query.prompt, Side.PASSAGE: passage.prompt}
    write_model(folder, chain, prompts, "SentenceTransformer", "cosine" if normalise else "dot")
