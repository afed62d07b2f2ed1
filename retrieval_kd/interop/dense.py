"""Dense students to folders and back: our own, sentence-transformers', plain Hugging Face ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.interop.module_files import ROUTES, longest, read_json
from retrieval_kd.interop.own_folder import SETTINGS
from retrieval_kd.interop.sentence_transformers import write_dense
from retrieval_kd.students.backbone import load_encoder, load_tokenizer
from retrieval_kd.students.bi_encoder import BiEncoder, build_bi_encoder
from retrieval_kd.students.student import Inference


def write(student: BiEncoder, folder: Path) -> None:
    """Write a student so that sentence-transformers scores the same, with our own settings beside."""
    sides = student.tokenizer.sides
    shape: dict[str, Any] = {"pooling": student.pooling, "normalise": student.cosine}
    shape |= {"query": sides[Side.QUERY], "passage": sides[Side.PASSAGE]}
    encoder: PreTrainedModel | dict[Side, PreTrainedModel] = student.encoder
    if student.query_encoder is not None:
        encoder = {Side.QUERY: student.query_encoder, Side.PASSAGE: student.encoder}
    write_dense(folder, encoder, student.tokenizer.tokenizer, **shape)
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
    encoder = folder / modules[0]["path"]  # older releases give it a folder of its own
    pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    text = read_json(encoder / "sentence_bert_config.json")
    shared = read_json(folder / "config_sentence_transformers.json")
    most = longest(encoder, text)
    prompts = shared.get("prompts") or {}
    if not pooling.get("include_prompt", True) and any(prompts.values()):
        raise UserError(f"{folder}: its pooling leaves prompts out (include_prompt); read are those that pool them too")
    dot = "Normalize" not in kinds and shared.get("similarity_fn_name") == "dot"
    return {
        "encoder": {"name": str(encoder), "layers": None},
        "pooling": _pooling(folder, pooling),
        "similarity": "dot" if dot else "cosine",
        "query": {"prompt": prompts.get("query") or "", "max_length": int(text.get("query_length") or most)},
        "passage": {
            "prompt": prompts.get("document") or prompts.get("passage") or "",
            "max_length": int(text.get("document_length") or most),
        },
    }


def _pooling(folder: Path, settings: Mapping[str, Any]) -> str:
    """The pooling's name in today's form or in the older one of a flag per mode, several of which are concatenated."""
    flags = [name.removeprefix("pooling_mode_") for name in settings if name.startswith("pooling_mode_")]
    modes = [name.removesuffix("_tokens").removesuffix("_token") for name in flags if settings[f"pooling_mode_{name}"]]
    mode = settings.get("pooling_mode") or " + ".join(modes)
    if mode not in ("mean", "cls"):
        raise UserError(f"{folder}: its pooling is {mode or 'none of ours'}; read are mean and cls")
    return str(mode)
