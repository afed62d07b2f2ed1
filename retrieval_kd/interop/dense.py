"""Dense students to folders and back: our own, sentence-transformers', plain Hugging Face ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.interop.sentence_transformers import ROUTES, write_dense, write_dense_separate
from retrieval_kd.students.backbone import load_encoder, load_tokenizer
from retrieval_kd.students.bi_encoder import BiEncoder, build_bi_encoder
from retrieval_kd.students.student import Inference

SETTINGS = "retrieval_kd.json"


def write(student: BiEncoder, folder: Path) -> None:
    """Write a student so that sentence-transformers scores the same, with our own settings beside."""
    sides = student.tokenizer.sides
    shape: dict[str, Any] = {"pooling": student.pooling, "normalise": student.cosine}
    shape |= {"query": sides[Side.QUERY], "passage": sides[Side.PASSAGE]}
    if student.query_encoder is None:
        write_dense(folder, student.encoder, student.tokenizer.tokenizer, **shape)
    else:
        encoders = {Side.QUERY: student.query_encoder, Side.PASSAGE: student.encoder}
        write_dense_separate(folder, encoders, student.tokenizer.tokenizer, **shape)
    settings = {
        "reader": "retrieval_kd.interop.dense.read",
        "shared": student.query_encoder is None,
        "pooling": student.pooling,
        "similarity": "cosine" if student.cosine else "dot",
        "query": vars(sides[Side.QUERY]),
        "passage": vars(sides[Side.PASSAGE]),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def read(folder: Path, inference: Inference) -> BiEncoder:
    """Read what ``write`` wrote."""
    settings = json.loads((folder / SETTINGS).read_text())
    places = {
        side: folder if settings["shared"] else folder / f"{route}_0_Transformer" for side, route in ROUTES.items()
    }
    passage = places[Side.PASSAGE]
    return BiEncoder(
        encoder=load_encoder(passage),
        query_encoder=None if settings["shared"] else load_encoder(places[Side.QUERY]),
        tokenizer=TextTokenizer(
            load_tokenizer(passage), SideSettings(**settings["query"]), SideSettings(**settings["passage"])
        ),
        inference=inference,
        pooling=settings["pooling"],
        cosine=settings["similarity"] == "cosine",
    )


def read_foreign(folder: Path, student: Mapping[str, Any]) -> BiEncoder:
    """Read a sentence-transformers folder by its own settings, or a plain Hugging Face one by those of ``student``."""
    settings = dict(student) | {"encoder": {"name": str(folder), "layers": None}, "shared": True}
    if (folder / "modules.json").exists():
        settings |= _sentence_transformers_settings(folder)
    return build_bi_encoder(**settings)


def _sentence_transformers_settings(folder: Path) -> dict[str, Any]:
    modules = json.loads((folder / "modules.json").read_text())
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise UserError(f"model={folder}: its modules are {', '.join(kinds)}; read are Transformer, Pooling, Normalize")
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    text = _json(folder / "sentence_bert_config.json")
    shared = _json(folder / "config_sentence_transformers.json")
    tokenizer = _json(folder / "tokenizer_config.json")
    longest = int(text.get("max_seq_length") or tokenizer.get("model_max_length", 512))
    prompts = shared.get("prompts") or {}
    dot = "Normalize" not in kinds and shared.get("similarity_fn_name") == "dot"
    return {
        "pooling": _pooling(folder, pooling),
        "similarity": "dot" if dot else "cosine",
        "query": {"prompt": prompts.get("query") or "", "max_length": int(text.get("query_length") or longest)},
        "passage": {
            "prompt": prompts.get("document") or prompts.get("passage") or "",
            "max_length": int(text.get("document_length") or longest),
        },
    }


def _pooling(folder: Path, settings: Mapping[str, Any]) -> str:
    """The pooling's name in today's form or in the older one of a flag per mode."""
    flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    mode = settings.get("pooling_mode") or next((name for flag, name in flags.items() if settings.get(flag)), None)
    if mode not in ("mean", "cls"):
        raise UserError(f"{folder}: its pooling is {mode or 'none of ours'}; read are mean and cls")
    return str(mode)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content
