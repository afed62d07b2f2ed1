"""Sparse students as folders that ``sentence_transformers.SparseEncoder`` loads and that score the same there.

The passages' encoder lies in the root, so the folder is also what transformers loads; where its head is one that the
architecture has, as a masked language model. The files are written here, not by that library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retrieval_kd.contracts import Side
from retrieval_kd.interop.sentence_transformers import FORMAT, ROUTES, TRANSFORMER, SideSettings
from retrieval_kd.interop.tokenizer_files import write_tokenizer

DENSE = "sentence_transformers.base.modules.dense.Dense"
STATIC = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
SPLADE = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
WEIGHTS = "model.safetensors"
QUERY_TABLE = "query_0_SparseStaticEmbedding"
# By how often the logarithm is taken.
ACTIVATIONS = {1: "relu", 2: "log1p_relu"}


def write_encoder(folder: Path, encoder: PreTrainedModel, lengths: dict[str, int]) -> str:
    """Write a model whose output every module behind it reads: logits of a masked language model, states of others."""
    masked = encoder.get_output_embeddings() is not None
    encoder.save_pretrained(folder)
    name = "logits" if masked else "last_hidden_state"
    text = {"method": "forward", "method_output_name": name}
    settings = {
        "transformer_task": "fill-mask" if masked else "feature-extraction",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
    }
    write_json(folder / "sentence_bert_config.json", settings | lengths)
    return TRANSFORMER


def write_projection(folder: Path, weight: Tensor, bias: Tensor) -> str:
    """Write states to logits as one linear module."""
    entries, width = weight.shape
    settings = {
        "in_features": width,
        "out_features": entries,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
    }
    write_json(folder / "config.json", settings)
    write_tensors(folder / WEIGHTS, {"linear.weight": weight, "linear.bias": bias})
    return DENSE


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


def write_model(folder: Path, chain: Sequence[tuple[str, str]], query: SideSettings, passage: SideSettings) -> None:
    """Write what makes the folder a model of that library."""
    versions = {"pytorch": version("torch"), "sentence_transformers": FORMAT, "transformers": version("transformers")}
    settings = {
        "__version__": versions,
        "default_prompt_name": None,
        "model_type": "SparseEncoder",
        "prompts": {ROUTES[Side.QUERY]: query.prompt, ROUTES[Side.PASSAGE]: passage.prompt},
        "similarity_fn_name": "dot",
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(chain)]
    write_json(folder / "modules.json", modules)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write float32 safetensors."""
    given = {name: value.detach().to("cpu", torch.float32).contiguous().clone() for name, value in tensors.items()}
    save_file(given, path, {"format": "pt"})
