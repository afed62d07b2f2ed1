"""What a plan would cost: teacher calls, disk and memory, each with the product that it was estimated by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from retrieval_kd.pipeline.asked import with_bases
from retrieval_kd.pipeline.estimates import (
    RUN_LINE_BYTES,
    SCORE_BYTES,
    STATE_BYTES,
    Counts,
    EncoderSize,
    asks_a_model,
    encoder_size,
    in_words,
    keeps_vectors,
    representation,
    stores_scores,
)
from retrieval_kd.pipeline.page import TIMES, Page
from retrieval_kd.pipeline.rounds import rounds

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan


def add_costs(page: Page, plan: Plan, stages: Mapping[str, Plan], counts: Counts) -> None:
    """A block of estimates for a plan and its recipe's stages by name; of what is not known yet, the formula."""
    page.block("Costs, estimated")
    if plan.values["engine"]["holds"] == "scores":
        _add_calls(page, plan, counts, reranked_lists(plan, plan.entries.evaluate[0]))
    asking = {name: stage for name, stage in stages.items() if stage.parts.needs_scores}
    for names, stage, entry in _distinct(asking, lambda stage, entry: stage.candidates.scored(entry)):
        its_counts = replace(counts, plan=stage)
        _add_calls(page, stage, its_counts, mined_lists(stage, its_counts, entry), names)
    _add_others(page, stages, counts)
    judged = {name: stage for name, stage in stages.items() if stage.parts.needs_preferences}
    for names, stage, entry in _distinct(judged, lambda stage, entry: stage.pairing.paired(entry)):
        _add_judgements(page, stage, replace(counts, plan=stage), entry, names)
    size = None if plan.values["model"] else encoder_size(**plan.values["encoder"])
    _add_disk(page, plan, counts, size)
    memory = [rows for stage in stages.values() if (rows := _memory(stage))]
    for label, text, product in max(memory, default=(0, ()))[1]:
        page.row(label, text, product)


def _add_others(page: Page, stages: Mapping[str, Plan], counts: Counts) -> None:
    """What teachers are asked that are not the training's own: terms' own, and those that others learn from first."""
    main = [stage for stage in stages.values() if stage.parts.needs_scores]
    seen = {stage.candidates.scored(entry).key for stage in main for entry in stage.train_entries}
    for stage in stages.values():
        for one in with_bases(stage.teachers):
            if one.key == "teacher":
                continue
            plan = one.steps.plan
            its_counts = replace(counts, plan=plan)
            only_reported = one.term in stage.parts.of_tokens
            for entry in [stage.reported_entry] if only_reported else stage.train_entries:
                lists = mined_lists(plan, its_counts, entry)
                if lists.step.key not in seen:
                    seen.add(lists.step.key)
                    _add_calls(page, plan, its_counts, lists, f"{one.key}: ")
    for name, stage in stages.items():
        for term in stage.parts.of_tokens:
            node, queries = stage.values["objective"][term], stage.values["trainer"]["batch_size"]
            pairs = f"{1 + node.get('pairs_per_query', 0)} pairs {TIMES} {queries} queries"
            label = f"{name}: {term}" if len(stages) > 1 else term
            page.row("teacher", f"{label} reads {pairs} in every step, beside the training", "none is kept")


def _distinct(stages: Mapping[str, Plan], step: Callable[[Plan, Entry], Step]) -> Iterator[tuple[str, Plan, Entry]]:
    """Each step that stages have of their training collections once, with the names of its stages if others differ."""
    found: dict[str, tuple[list[str], Plan, Entry]] = {}
    for name, stage in stages.items():
        for entry in stage.train_entries:
            found.setdefault(step(stage, entry).key, ([], stage, entry))[0].append(name)
    shared = len({tuple(names) for names, _, _ in found.values()}) < 2
    for names, stage, entry in found.values():
        yield "" if shared else f"{', '.join(names)}: ", stage, entry


@dataclass(frozen=True)
class Lists:
    """Which passages the teacher is asked about."""

    entry: Entry
    each: int  # passages per query
    step: Step
    mined: tuple[int, int] | None = None  # candidates and queries, once they are known
    beside: str = ""

    def sizes(self, counts: Counts) -> tuple[int | None, int | None]:
        """Queries and pairs, None where they are not known."""
        if self.mined:
            return self.mined[1], self.mined[0]
        queries = counts.queries(self.entry)
        return queries, None if queries is None else self.each * queries


def mined_lists(plan: Plan, counts: Counts, entry: Entry) -> Lists:
    """What the teacher scores of a collection for a training."""
    negatives = plan.values["negatives"]
    each = negatives["pool"] + (negatives.get("random") or 0)
    if plan.candidates.makes_passages:
        each += sum(negatives["made"][kind]["count"] for kind in ("reinforced", "masked"))
    return Lists(entry, each, plan.candidates.scored(entry), counts.candidates(entry), ", and the positives")


def reranked_lists(plan: Plan, entry: Entry) -> Lists:
    """What the teacher scores to order a split's passages itself."""
    return Lists(entry, plan.values["engine"]["depth"], plan.reranked(entry))


def _add_calls(page: Page, plan: Plan, counts: Counts, lists: Lists, names: str = "") -> None:
    queries, pairs = lists.sizes(counts)
    asked = "queries" if queries is None else f"{queries:,} queries"
    about = f"{names}{lists.each} passages {TIMES} {asked}{lists.beside}"
    about += "" if pairs is None else f" = {pairs:,} pairs"
    passages = counts.passages(lists.entry)
    page.row("teacher", about, "done" if counts.known and lists.step.done else "less what the store has")
    for name, node in plan.parts.scorers.items():
        if not keeps_vectors(node):
            kept = _scores(pairs) if stores_scores(node) else "none is kept"
            page.row("", f"{name}: {'a score per pair' if pairs is None else f'{pairs:,} scores'}", kept)
            continue
        texts = None if pairs is None or queries is None else queries + min(pairs, passages or pairs)
        size = scorer_size(node)
        weight = f"{in_words(texts * size.dimension * 4)} of vectors" if texts and size else ""
        page.row("", f"{name}: {'a vector per text' if texts is None else f'at most {texts:,} vectors'}", weight)


def _add_judgements(page: Page, plan: Plan, counts: Counts, entry: Entry, names: str) -> None:
    """How often the judge of pairs is asked; held-out pairs for its report come on top, a thousand at most."""
    if not asks_a_model(plan.parts.judge):
        page.row("judge", "asks no model", "the base's scores, or a file")
        return
    each = plan.values["pairs"]["per_query"]
    orders = 2 if plan.values["teacher"]["orders"] == "both" else 1
    mined = counts.candidates(entry)
    queries = mined[1] if mined else counts.queries(entry)
    asked = "queries" if queries is None else f"{queries:,} queries"
    about = f"{names}{each} pairs {TIMES} {orders} orders {TIMES} {asked}"
    calls = None if queries is None else each * orders * queries
    done = counts.known and plan.pairing.paired(entry).done
    page.row("judge", about + ("" if calls is None else f" = {calls:,} calls"), "done" if done else "at most")
    page.row("", "a score per call" if calls is None else f"{calls:,} scores", _scores(calls))


def _scores(pairs: int | None) -> str:
    return "" if pairs is None else f"{in_words(pairs * SCORE_BYTES)}: {SCORE_BYTES} bytes each"


def scorer_size(node: dict[str, Any]) -> EncoderSize | None:
    """The encoder of a teacher's member, if it has one that is known."""
    encoder = node.get("encoder", {}).get("encoder")
    return encoder_size(**encoder) if encoder else None


def _add_disk(page: Page, plan: Plan, counts: Counts, size: EncoderSize | None) -> None:
    rows = [_runs(plan, counts)]
    if plan.values["engine"]["holds"] == "representations" and size is not None:
        copies = len(rounds(plan)) or 1  # what was encoded for mining, or measured between rounds, stays
        entries = {entry.name: entry for entry in plan.entries.evaluate}.values()
        if (made := representation(plan.values, size)) is not None:
            rows += [_representations(entry, counts, made, copies) for entry in entries]
        if plan.trained is not None:
            models, weights = len(plan.trainings), f"{size.parameters:,} weights {TIMES} 4 bytes"
            label = "model" if models == 1 else f"{models} models"
            rows.append((f"{label} {in_words(models * size.parameters * 4)}", weights))
    for number_of_row, (text, product) in enumerate(rows):
        page.row("" if number_of_row else "disk", text, product)


def _runs(plan: Plan, counts: Counts) -> tuple[str, str]:
    window = plan.values["negatives"].get("window")
    lists = [(entry, plan.values["evaluation"]["depth"]) for entry in plan.entries.evaluate]
    if plan.trained is not None and window:
        lists += [(entry, window[1]) for entry in plan.entries.train]
    lines = [counts.lines(entry, depth) for entry, depth in lists]
    known = [count for count in lines if count is not None]
    if len(known) < len(lists):
        depths = " + ".join(f"{depth} a query" for _, depth in lists)
        return "runs", f"lines ({depths}) {TIMES} about {RUN_LINE_BYTES} bytes"
    size = sum(count * counts.line_bytes(entry) for count, (entry, _) in zip(known, lists, strict=True))
    return f"runs {in_words(size)}", f"{sum(known):,} lines {TIMES} about {size / max(1, sum(known)):.0f} bytes"


def _representations(entry: Entry, counts: Counts, made: tuple[str, int, str], copies: int) -> tuple[str, str]:
    name, each, product = made
    passages = counts.passages(entry)
    product = f"passages {TIMES} {product}" + (f" {TIMES} {copies} rounds" if copies > 1 else "")
    if passages is None:
        return f"{name} of {entry.name}", product
    return f"{name} of {entry.name} {in_words(copies * passages * each)}", f"{passages:,} {product}"


def training_memory(plan: Plan, size: EncoderSize) -> tuple[int, int]:
    """Bytes of weights with their optimizer state, and of the activations of a step whose texts are all the longest."""
    student, trainer = plan.values["student"], plan.values["trainer"]
    queries, listed = trainer["batch_size"], texts_per_query(plan)
    state = size.parameters * STATE_BYTES * (1 if student.get("shared", True) else 2)
    kept = size.activations(queries * listed, student["passage"]["max_length"])
    if encodes_queries(student):
        kept += size.activations(queries, student["query"]["max_length"])
    return state, kept


def texts_per_query(plan: Plan) -> int:
    """Passages of a query's list in a batch."""
    negatives = plan.values["negatives"]
    return 1 + int(negatives["per_query"]) + int(negatives.get("made", {}).get("per_query", 0))


def encodes_queries(student: Mapping[str, Any]) -> bool:
    """Whether queries need the model: those of an inference-free student do not."""
    return bool(student.get("query_weights", "encoder") == "encoder")


def _memory(plan: Plan) -> tuple[int, list[tuple[str, str, str]]] | None:
    """Bytes of a training step whose texts all have the greatest length, and their rows; most steps need far less."""
    trainer = plan.values["trainer"]
    size = encoder_size(**plan.values["encoder"])
    if size is None:
        return None
    state, kept = training_memory(plan, size)
    queries = trainer["batch_size"]
    most = "one group of like length at a time" if trainer["gradient_cache"] else "all of the greatest length"
    asked = f"{queries} queries, " if encodes_queries(plan.values["student"]) else ""
    texts = f"{asked}{queries * texts_per_query(plan)} passages"
    weights = ("memory", f"weights, gradients, AdamW {in_words(state)}", f"{STATE_BYTES} bytes a weight")
    return state + kept, [weights, ("", f"activations of a step up to {in_words(kept)}", f"{texts}, {most}")]
