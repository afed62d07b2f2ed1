"""What a plan would cost: teacher calls, disk and memory, each with the product that it was estimated by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval_kd.pipeline.estimates import (
    RUN_LINE_BYTES,
    SCORE_BYTES,
    STATE_BYTES,
    Counts,
    EncoderSize,
    encoder_size,
    in_words,
    keeps_vectors,
)
from retrieval_kd.pipeline.page import TIMES, Page

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan


def add_costs(page: Page, plan: Plan, counts: Counts) -> None:
    """A block of estimates; of what is not known yet, the formula."""
    page.block("Costs, estimated")
    rerank = plan.values["engine"]["holds"] == "scores"
    student = plan.trained is not None
    if rerank or (student and plan.parts.needs_scores):
        _add_calls(page, plan, counts, rerank)
    size = None if plan.values["model"] else encoder_size(**plan.values["encoder"])
    _add_disk(page, plan, counts, size)
    if student and size and "pooling" in plan.values["student"]:
        _add_memory(page, plan, size)


def _add_calls(page: Page, plan: Plan, counts: Counts, rerank: bool) -> None:
    entry = plan.entries.evaluate[0] if rerank else plan.train_entry
    negatives = plan.values["negatives"]
    each = plan.values["engine"]["depth"] if rerank else negatives["pool"] + (negatives.get("random") or 0)
    mined = None if rerank else counts.candidates(entry)
    queries = mined[1] if mined else counts.queries(entry)
    step = plan.reranked(entry) if rerank else plan.scored(entry)
    pairs = None if queries is None else mined[0] if mined else each * queries
    about = f"{each} passages {TIMES} {'queries' if queries is None else f'{queries:,} queries'}"
    about += "" if rerank else ", and the positives"
    about += "" if pairs is None else f" = {pairs:,} pairs"
    passages = counts.passages(entry)
    page.row("teacher", about, "done" if counts.known and step.done else "less what the store has")
    for name, node in plan.parts.scorers.items():
        if not keeps_vectors(node):
            page.row("", f"{name}: {'a score per pair' if pairs is None else f'{pairs:,} scores'}", _scores(pairs))
            continue
        texts = None if pairs is None or queries is None else queries + min(pairs, passages or pairs)
        size = _scorer_size(node)
        weight = f"{in_words(texts * size.dimension * 4)} of vectors" if texts and size else ""
        page.row("", f"{name}: {'a vector per text' if texts is None else f'at most {texts:,} vectors'}", weight)


def _scores(pairs: int | None) -> str:
    return "" if pairs is None else f"{in_words(pairs * SCORE_BYTES)}: {SCORE_BYTES} bytes each"


def _scorer_size(node: dict[str, Any]) -> EncoderSize | None:
    encoder = node.get("encoder", {}).get("encoder")
    return encoder_size(**encoder) if encoder else None


def _add_disk(page: Page, plan: Plan, counts: Counts, size: EncoderSize | None) -> None:
    values = plan.values
    depth, window = values["evaluation"]["depth"], values["negatives"].get("window")
    lines = [(counts.queries(entry), depth) for entry in plan.entries.evaluate]
    if plan.trained is not None and window:
        lines.append((counts.queries(plan.entries.train), window[1]))
    if all(queries is not None for queries, _ in lines):
        total = sum((queries or 0) * each for queries, each in lines)
        page.row(
            "disk", f"runs {in_words(total * RUN_LINE_BYTES)}", f"{total:,} lines {TIMES} about {RUN_LINE_BYTES} bytes"
        )
    if values["engine"]["holds"] != "representations" or size is None:
        return
    if "pooling" in values["student"]:
        for entry in {entry.name: entry for entry in plan.entries.evaluate}.values():
            passages = counts.passages(entry)
            product = f"passages {TIMES} {size.dimension} dimensions {TIMES} 4 bytes"
            if passages is None:
                page.row("", f"vectors of {entry.name}", product)
            else:
                page.row("", f"vectors {in_words(passages * size.dimension * 4)}", f"{passages:,} {product}")
    page.row("", f"model {in_words(size.parameters * 4)}", f"{size.parameters:,} weights {TIMES} 4 bytes")


def _add_memory(page: Page, plan: Plan, size: EncoderSize) -> None:
    """Of a step whose texts all have the greatest length; most steps need far less."""
    student, trainer = plan.values["student"], plan.values["trainer"]
    queries, listed = trainer["batch_size"], 1 + plan.values["negatives"]["per_query"]
    state = size.parameters * STATE_BYTES * (1 if student["shared"] else 2)
    kept = size.activations(queries, student["query"]["max_length"])
    kept += size.activations(queries * listed, student["passage"]["max_length"])
    page.row("memory", f"weights, gradients, AdamW {in_words(state)}", f"{STATE_BYTES} bytes a weight")
    most = "one group of like length at a time" if trainer["gradient_cache"] else "if all had the greatest length"
    texts = f"{queries} queries and {queries * listed} passages"
    page.row("", f"activations of a step up to {in_words(kept)}", f"{texts}, {most}")
