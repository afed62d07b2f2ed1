"""What a folder of another library says about the sparse model in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.interop.module_files import ROUTES, longest, read_json
from retrieval_kd.interop.sparse_encoder_files import ACTIVATIONS

# Queries that go through a table are never encoded, so nothing but this limits their length.
ENDLESS = 1 << 20
ROUTER, POOLING, PROJECTION = "Router", "SpladePooling", "Dense"
TRANSFORMERS, TABLES = ("Transformer", "MLMTransformer"), ("SparseStaticEmbedding", "IDF")
IDF = "idf.json"
KNOWN = "a masked language model (or an encoder and Dense) and SpladePooling, for queries SparseStaticEmbedding"


@dataclass(frozen=True)
class Layout:
    """Where the parts lie and how texts are read."""

    encoder: Path
    projection: Path | None  # None where the encoder is a masked language model
    table: Path | None  # a folder or JSON file; None where queries are encoded
    logs: int | None  # None where the folder does not say
    query: SideSettings
    passage: SideSettings


def is_sparse(folder: Path) -> bool:
    """Whether it is a SparseEncoder folder or has OpenSearch's table beside a masked language model."""
    if not (folder / "modules.json").is_file():
        return (folder / IDF).is_file()
    types = [module["type"] for module in read_json(folder / "modules.json")]
    types += read_json(folder / "router_config.json").get("types", {}).values()
    return POOLING in map(_kind, types)


def read_layout(folder: Path) -> Layout:
    """By the folder's own settings."""
    if not (folder / "modules.json").is_file():
        most = longest(folder, {})
        side = SideSettings("", most)
        return Layout(folder, None, folder / IDF, None, SideSettings("", ENDLESS), side)
    modules = [(module["path"], module["type"]) for module in read_json(folder / "modules.json")]
    if [_kind(kind) for _, kind in modules] != [ROUTER]:
        return _layout(folder, None, modules)
    router = read_json(folder / "router_config.json")
    routes = {
        side: [(name, router["types"][name]) for name in router["structure"].get(route, ())]
        for side, route in ROUTES.items()
    }
    query = routes[Side.QUERY]
    if [_kind(kind) in TABLES for _, kind in query] != [True]:
        raise UserError(f"model={folder}: its queries go through {_told(query)}; read is {TABLES[0]}")
    return _layout(folder, folder / query[0][0], routes[Side.PASSAGE])


def _layout(folder: Path, table: Path | None, modules: Sequence[tuple[str, str]]) -> Layout:
    kinds = [_kind(kind) for _, kind in modules]
    if kinds[:1] not in ([name] for name in TRANSFORMERS) or kinds[1:] not in ([POOLING], [PROJECTION, POOLING]):
        raise UserError(f"model={folder}: its modules are {_told(modules)}; read are {KNOWN}")
    encoder = folder / modules[0][0]
    text = read_json(encoder / "sentence_bert_config.json")
    masked = kinds[0] == TRANSFORMERS[1] or text.get("transformer_task") == "fill-mask"
    if masked == (PROJECTION in kinds):
        raise UserError(f"model={folder}: its modules do not end in logits; read are {KNOWN}")
    projection = None if masked else folder / modules[1][0]
    if projection is not None and not _plain(read_json(projection / "config.json")):
        raise UserError(f"{projection}: read is Dense from token states to token logits without an activation")
    query, passage = _sides(folder, encoder, table, text)
    return Layout(encoder, projection, table, _logs(folder / modules[-1][0]), query, passage)


def _sides(
    folder: Path, encoder: Path, table: Path | None, text: Mapping[str, Any]
) -> tuple[SideSettings, SideSettings]:
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    most = longest(encoder, text)
    query = int(text.get("query_length") or most)
    if table is not None:
        query = min(ENDLESS, int(read_json(table / "tokenizer_config.json").get("model_max_length") or ENDLESS))
    return (
        SideSettings(prompts.get("query") or "", query),
        SideSettings(prompts.get("document") or prompts.get("passage") or "", int(text.get("document_length") or most)),
    )


def _plain(projection: Mapping[str, Any]) -> bool:
    return (
        _kind(projection.get("activation_function", "")) == "Identity"
        and projection.get("module_input_name") == "token_embeddings"
        and projection.get("module_output_name") in (None, "token_embeddings")
        and not projection.get("use_residual")
    )


def _logs(pooling: Path) -> int:
    settings = read_json(pooling / "config.json")
    strategy, activation = settings.get("pooling_strategy", "max"), settings.get("activation_function", "relu")
    found = [logs for logs, name in ACTIVATIONS.items() if name == activation]
    if strategy != "max" or not found:
        raise UserError(
            f"{pooling}: pools by {strategy} of {activation}; read are max of {' and '.join(ACTIVATIONS.values())}"
        )
    return found[0]


def _kind(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1]


def _told(modules: Sequence[tuple[str, str]]) -> str:
    return ", ".join(_kind(kind) for _, kind in modules) or "nothing"
