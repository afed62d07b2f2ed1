"""Late-interaction students to folders and back: our own, sentence-transformers', PyLate's, Stanford's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.marked_tokens import MarkedTokenizer, Marking, skipped_ids
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.interop.late_layouts import METADATA, PYLATE, STANFORD, Layout, encoder_folder, read_layout
from retrieval_kd.interop.module_files import (
    TRANSFORMER,
    WEIGHTS,
    read_json,
    write_json,
    write_model,
    write_normalize,
    write_projection,
    write_tensors,
    write_transformer_settings,
)
from retrieval_kd.interop.own_folder import SETTINGS
from retrieval_kd.interop.tokenizer_files import write_tokenizer
from retrieval_kd.students.backbone import load_encoder, load_tokenizer
from retrieval_kd.students.late_interaction import SKIPS, LateInteraction
from retrieval_kd.students.student import Inference
from retrieval_kd.students.token_projection import find_projection, load_projection

log = logging.getLogger(__name__)

MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
PROBE = "a Probe of texts, that differ"


def write(student: LateInteraction, folder: Path) -> None:
    """Write a student so that ``MultiVectorEncoder`` scores the same, with our own settings beside."""
    marking, sides = student.tokenizer.marking, student.tokenizer.sides
    prompts = {side: marking.of(side) + sides[side].prompt for side in Side}
    student.encoder.save_pretrained(folder)
    _write_tokenizer(student, folder)
    _compare_prompts(student, folder, prompts)
    query_length = sides[Side.QUERY].max_length
    expansion = {"strategy": "fixed", "attend": marking.attend_to_mask, "token": None, "length": query_length}
    lengths = {"query_length": query_length, "document_length": sides[Side.PASSAGE].max_length}
    write_transformer_settings(folder, lengths | {"query_expansion": expansion if marking.augment else None})
    mask = folder / "2_MultiVectorMask"
    words = {"skiplist_words": _skipped(student), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write_json(mask / "config.json", words)
    chain = [
        ("", TRANSFORMER),
        ("1_Dense", write_projection(folder / "1_Dense", student.projection.weight)),
        (mask.name, MASK),
        ("3_Normalize", write_normalize(folder / "3_Normalize", "token_embeddings")),
    ]
    write_json(folder / SETTINGS, _settings(student))
    write_model(folder, chain, prompts, "MultiVectorEncoder", "maxsim")


def read(folder: Path, inference: Inference) -> LateInteraction:
    """Read what ``write`` wrote."""
    settings = read_json(folder / SETTINGS)
    sides = {side: SideSettings(**settings[side.value]) for side in Side}
    return _student(folder, Layout(folder, Marking(**settings["marking"]), sides, settings["skip"]), inference)


def read_foreign(folder: Path, student: Mapping[str, Any]) -> LateInteraction:
    """Read a folder of Stanford's ColBERT, PyLate or a MultiVectorEncoder by its own settings.

    Scores are those that its own library gives, except that text which spells a marker or a special token stays
    ordinary text. Of ``student``, the config's student node, the inference settings count.
    """
    layout = read_layout(folder, load_tokenizer(encoder_folder(folder)))
    return _student(folder, layout, Inference(**student["inference"]))


def write_pylate(student: LateInteraction, folder: Path) -> None:
    """Write a folder that PyLate's ColBERT loads and scores the same."""
    _refuse_prompts(student, "pylate")
    marking, sides = student.tokenizer.marking, student.tokenizer.sides
    student.encoder.save_pretrained(folder)
    _write_tokenizer(student, folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": _longest(student), "do_lower_case": False})
    weight = student.projection.weight
    linear = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": False, "use_residual": False}
    activation = {"activation_function": "torch.nn.modules.linear.Identity"}
    write_json(folder / "1_Dense" / "config.json", linear | activation)
    write_tensors(folder / "1_Dense" / WEIGHTS, {"linear.weight": weight})
    settings: dict[str, Any] = {
        "model_type": PYLATE,
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": marking.query,
        "document_prefix": marking.passage,
        "query_length": sides[Side.QUERY].max_length,
        "document_length": sides[Side.PASSAGE].max_length,
        "attend_to_expansion_tokens": marking.attend_to_mask,
        "skiplist_words": _skipped(student),
        "do_query_expansion": marking.augment,
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    types = (("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(types)]
    write_json(folder / "modules.json", modules)


def write_stanford(student: LateInteraction, folder: Path) -> None:
    """Write a checkpoint that Stanford's ColBERT loads and scores the same."""
    _refuse_prompts(student, "stanford")
    marking, sides = student.tokenizer.marking, student.tokenizer.sides
    for refused, why in (
        (not marking.augment, "student.augment=false"),
        (not (marking.query and marking.passage), "student.markers without a token for each side"),
        (student.skip and set(student.skip) != set(SKIPS["punctuation"]), "student.skip of other tokens"),
    ):
        if refused:
            raise UserError(f"format=stanford: that library has no {why}; format=pylate or no format would fit")
    _write_tokenizer(student, folder)
    configuration = student.encoder.config.to_dict() | {"architectures": [STANFORD]}
    write_json(folder / "config.json", configuration)
    prefix = student.encoder.base_model_prefix
    weights = {f"{prefix}.{name}": value for name, value in student.encoder.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights | {"linear.weight": student.projection.weight})
    settings = {
        "query_token_id": marking.query,
        "doc_token_id": marking.passage,
        "query_token": "[Q]",
        "doc_token": "[D]",
        "similarity": "cosine",
        "interaction": "colbert",
        "dim": student.projection.weight.shape[0],
        "query_maxlen": sides[Side.QUERY].max_length,
        "doc_maxlen": sides[Side.PASSAGE].max_length,
        "mask_punctuation": bool(student.skip),
        "attend_to_mask_tokens": marking.attend_to_mask,
    }
    write_json(folder / METADATA, settings)


def _student(folder: Path, layout: Layout, inference: Inference) -> LateInteraction:
    encoder = load_encoder(layout.encoder)
    weight = find_projection(folder)
    if weight is None:
        raise UserError(f"model={folder}: no projection of tokens (linear.weight); a trained model has one")
    return LateInteraction(
        encoder=encoder,
        projection=load_projection(folder, weight.shape[1], weight.shape[0]),
        tokenizer=MarkedTokenizer(
            load_tokenizer(layout.encoder), layout.sides[Side.QUERY], layout.sides[Side.PASSAGE], layout.marking
        ),
        inference=inference,
        skip=layout.skip,
    )


def _write_tokenizer(student: LateInteraction, folder: Path) -> None:
    """Markers are found in text, as which sentence-transformers puts them in whatever the form."""
    marking = student.tokenizer.marking
    markers = [marker for marker in (marking.query, marking.passage) if marker]
    write_tokenizer(folder, student.tokenizer.tokenizer, _longest(student), spelled=markers)


def _settings(student: LateInteraction) -> dict[str, Any]:
    return {
        "reader": "retrieval_kd.interop.late_interaction.read",
        "marking": vars(student.tokenizer.marking),
        "skip": list(student.skip),
        **{side.value: vars(settings) for side, settings in student.tokenizer.sides.items()},
    }


def _skipped(student: LateInteraction) -> list[str]:
    """Those words that are tokens: others would be taken for the unknown token, which passages have too."""
    return list(skipped_ids(student.tokenizer.tokenizer, student.skip))


def _longest(student: LateInteraction) -> int:
    return max(settings.max_length for settings in student.tokenizer.sides.values())


def _refuse_prompts(student: LateInteraction, form: str) -> None:
    for side, settings in student.tokenizer.sides.items():
        if settings.prompt:
            raise UserError(f"format={form}: student.{side}.prompt is not known there; leave the format out")


def _compare_prompts(student: LateInteraction, folder: Path, prompts: Mapping[Side, str]) -> None:
    """That library spells markers in prompts; not every tokenizer then makes the tokens that are put in here."""
    tokenizer = load_tokenizer(folder)
    attended = {side: student.tokenizer.groups([PROBE], side, lambda _: [(0, 1)]).groups[0] for side in Side}
    for side, group in attended.items():
        length = student.tokenizer.sides[side].max_length
        found = tokenizer([prompts[side] + PROBE], truncation=True, max_length=length)["input_ids"][0]
        own = group.input_ids[0].tolist()
        if own[: len(found)] != found:
            log.warning(
                "sentence-transformers puts %r in front of a %s as text, of which this tokenizer makes other tokens:"
                " scores will differ there (format=pylate puts the token in)",
                prompts[side],
                side,
            )
