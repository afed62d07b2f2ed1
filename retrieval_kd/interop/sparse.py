"""Sparse students to folders and back: our own, sentence-transformers', OpenSearch's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.token_weights import special_ids, write_token_weights
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.interop.module_files import ROUTER, WEIGHTS, read_json, write_json, write_model, write_projection
from retrieval_kd.interop.own_folder import SETTINGS
from retrieval_kd.interop.sparse_encoder_files import (
    QUERY_TABLE,
    write_encoder,
    write_pooling,
    write_query_table,
    write_router,
)
from retrieval_kd.interop.sparse_layouts import IDF, Layout, read_layout
from retrieval_kd.interop.sparse_tables import read_query_table
from retrieval_kd.interop.tokenizer_files import write_tokenizer
from retrieval_kd.students.backbone import load_encoder, load_tokenizer
from retrieval_kd.students.mlm_head import MlmHead, load_with_head, masked_lm
from retrieval_kd.students.sparse_encoder import SparseEncoder, Sparsity
from retrieval_kd.students.student import Inference

log = logging.getLogger(__name__)

# Bias of what may not be active, where no table silences it: no logit makes up for it, and half precision holds it.
SILENCE = -3e4


def write(student: SparseEncoder, folder: Path) -> None:
    """Write a student so that ``SparseEncoder`` scores the same, with our own settings beside.

    The root is the passages' encoder: a masked language model where the head is one, else the bare encoder with the
    head as a linear module behind it. Queries go through a table of their own, or, where they are encoded too, through
    the same modules. Special tokens weigh nothing in the table; without one their logits are silenced.
    """
    if student.prune:
        log.warning("student.prune=%g is not known outside: there passages keep all terms", student.prune)
    query, passage = (student.tokenizer.sides[side] for side in (Side.QUERY, Side.PASSAGE))
    tokenizer, table = student.tokenizer.tokenizer, student.query_table
    longest = passage.max_length if table is not None else max(query.max_length, passage.max_length)
    chain = _write_modules(student, folder)
    write_tokenizer(folder, tokenizer, longest)
    if table is not None:
        weights = table.detach().relu().cpu()
        kind = write_query_table(folder / QUERY_TABLE, weights, tokenizer, query.max_length)
        write_token_weights(folder / IDF, student.vocabulary, weights.numpy())
        write_router(folder, [(QUERY_TABLE, kind)], chain)
        chain = [("", ROUTER)]
    write_json(folder / SETTINGS, _settings(student))
    prompts = {Side.QUERY: query.prompt, Side.PASSAGE: passage.prompt}
    write_model(folder, chain, prompts, "SparseEncoder", "dot")


def _write_modules(student: SparseEncoder, folder: Path) -> list[tuple[str, str]]:
    """Write what turns passages into representations; folder and type of each module."""
    head, before, lengths = student.head, "document_", {}
    if student.query_table is None:
        head, before = _silenced(student), ""
        sides = student.tokenizer.sides
        lengths = {"query_length": sides[Side.QUERY].max_length, "document_length": sides[Side.PASSAGE].max_length}
    if isinstance(head.transform, nn.Identity):
        name = f"{before}1_Dense"
        modules = [("", write_encoder(folder, student.encoder, lengths))]
        modules.append((name, write_projection(folder / name, head.decoder_weight, head.bias)))
    else:
        modules = [("", write_encoder(folder, masked_lm(student.encoder, head), lengths))]
    name = f"{before}{len(modules)}_SpladePooling"
    return [*modules, (name, write_pooling(folder / name, len(head.bias), student.logs))]


def _silenced(student: SparseEncoder) -> MlmHead:
    """The head with a bias that no special token and no row without a token comes up against."""
    bias = student.head.bias.detach().clone()
    bias[_silent(student)] = SILENCE
    return _head(student.encoder, student.head.transform, bias, student.head.decoder)


def _silent(student: SparseEncoder) -> list[int]:
    tokenizer = student.tokenizer.tokenizer
    return sorted({*special_ids(tokenizer), *range(len(tokenizer), len(student.vocabulary))})


def _head(encoder: PreTrainedModel, transform: nn.Module, bias: Tensor, decoder: nn.Parameter | None) -> MlmHead:
    embeddings = encoder.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    return MlmHead(transform, nn.Parameter(bias), decoder, embeddings)


def _settings(student: SparseEncoder) -> dict[str, Any]:
    sides = student.tokenizer.sides
    settings = {
        "reader": "retrieval_kd.interop.sparse.read",
        "query_weights": student.query_weights,
        "logs": student.logs,
        "prune": student.prune,
        "tied": student.head.tied,
        "query": vars(sides[Side.QUERY]),
        "passage": vars(sides[Side.PASSAGE]),
    }
    if student.query_table is None:  # float32 survives being written so
        settings["silenced_bias"] = {str(row): student.head.bias[row].item() for row in _silent(student)}
    return settings


def read(folder: Path, inference: Inference) -> SparseEncoder:
    """Read what ``write`` wrote."""
    settings = read_json(folder / SETTINGS)
    layout = replace(
        read_layout(folder), query=SideSettings(**settings["query"]), passage=SideSettings(**settings["passage"])
    )
    encoder, head = _encoder_and_head(layout, settings["tied"])
    silenced = settings.get("silenced_bias", {})
    with torch.no_grad():
        head.bias[[int(row) for row in silenced]] = torch.tensor(list(silenced.values()))
    sparsity = Sparsity(settings["query_weights"], settings["logs"], settings["prune"])
    return _student(layout, encoder, head, inference, sparsity)


def read_foreign(folder: Path, student: Mapping[str, Any]) -> SparseEncoder:
    """Read a SparseEncoder folder, or a masked language model with OpenSearch's ``idf.json``, by its own settings.

    Scores are those that its own library gives, except that special tokens, the unknown one among them, never count.
    ``student`` is the config's student node: its inference settings count, and ``logs`` where the folder is silent.
    """
    layout = read_layout(folder)
    if layout.table is not None:  # there queries are cut without special tokens
        added = load_tokenizer(layout.encoder).num_special_tokens_to_add()
        layout = replace(layout, query=replace(layout.query, max_length=layout.query.max_length + added))
    encoder, head = _encoder_and_head(layout, tied=False)
    sparsity = Sparsity("encoder" if layout.table is None else "file", layout.logs or student.get("logs", 1), 0.0)
    return _student(layout, encoder, head, Inference(**student["inference"]), sparsity)


def _encoder_and_head(layout: Layout, tied: bool) -> tuple[PreTrainedModel, MlmHead]:
    if layout.projection is None:
        encoder, head = load_with_head(layout.encoder)
        if isinstance(head.transform, nn.Identity):
            raise UserError(f"model={layout.encoder}: it says that it is a masked language model and has no such head")
        return encoder, head
    encoder, path = load_encoder(layout.encoder), layout.projection / WEIGHTS
    try:
        found = load_file(path)
        weight, bias = found["linear.weight"], found["linear.bias"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: no safetensors with linear.weight and linear.bias") from error
    return encoder, _head(encoder, nn.Identity(), bias, None if tied else nn.Parameter(weight))


def _student(
    layout: Layout, encoder: PreTrainedModel, head: MlmHead, inference: Inference, sparsity: Sparsity
) -> SparseEncoder:
    tokenizer = load_tokenizer(layout.encoder)
    return SparseEncoder(
        encoder=encoder,
        head=head,
        tokenizer=TextTokenizer(tokenizer, layout.query, layout.passage),
        inference=inference,
        sparsity=sparsity,
        token_weights=None if layout.table is None else read_query_table(layout.table, tokenizer, len(head.bias)),
    )
