"""Sparse students as folders that ``sentence_transformers.SparseEncoder`` loads and that score the same there.

The passages' encoder lies in the root, so the folder is also what transformers loads; where its head is one that the
architecture has, as a masked language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retrieval_kd.contracts import Side
from retrieval_kd.interop.module_files import (
    ROUTES,
    TRANSFORMER,
    WEIGHTS,
    write_json,
    write_tensors,
    write_transformer_settings,
)
from retrieval_kd.interop.tokenizer_files import write_tokenizer

STATIC = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
SPLADE = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
QUERY_TABLE = "query_0_SparseStaticEmbedding"
# By how often the logarithm is taken.
ACTIVATIONS = {1: "relu", 2: "log1p_relu"}


def write_encoder(folder: Path, encoder: PreTrainedModel, lengths: dict[str, int]) -> str:
    """Write a model whose output every module behind it reads: logits of a masked language model, states of others."""
    masked = encoder.get_output_embeddings() is not None
    encoder.save_pretrained(folder)
    write_transformer_settings(folder, lengths, masked)
    return TRANSFORMER


def write_pooling(folder: Path, entries: int, logs: int) -> str:
    """Write the maximum over tokens and its logarithms."""
    settings = {"pooling_strategy": "max", "activation_function": ACTIVATIONS[logs], "embedding_dimension": entries}
    write_json(folder / "config.json", settings)
    return SPLADE


def write_query_table(folder: Path, table: Tensor, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """Write the weight of every entry; the tokenizer, which that library runs without special tokens, cuts sooner."""
    content = max_length - tokenizer.num_special_tokens_to_add()
    write_tokenizer(folder, tokenizer, content, entries=len(table))
    write_json(folder / "config.json", {"frozen": True})
    write_tensors(folder / WEIGHTS, {"weight": table})
    return STATIC


def write_router(folder: Path, query: Sequence[tuple[str, str]], passage: Sequence[tuple[str, str]]) -> None:
    """Write which modules (folder and type) each side goes through."""
    structure = {ROUTES[Side.QUERY]: [name for name, _ in query], ROUTES[Side.PASSAGE]: [name for name, _ in passage]}
    parameters = {"default_route": ROUTES[Side.PASSAGE], "allow_empty_key": True, "route_mappings": {}}
    content = {"types": dict([*query, *passage]), "structure": structure, "parameters": parameters}
    write_json(folder / "router_config.json", content)
