"""What each step of a plan would cost: calls of a teacher, operations, disk and memory, by a model that is stated.

A token that a model reads costs two operations for each weight that it is multiplied by, and three times as many where
the model is trained. Texts are taken to be as long as they may be, unless the collection states how long they are;
a query and a passage that are read together, as long as the model takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from retrieval_kd.pipeline.asked import with_bases
from retrieval_kd.pipeline.costs import encodes_queries, mined_lists, reranked_lists, texts_per_query, training_memory
from retrieval_kd.pipeline.estimates import (
    SCORE_BYTES,
    Counts,
    EncoderSize,
    asks_a_model,
    keeps_vectors,
    optimizer_steps,
    representation,
    stated,
    stores_scores,
)
from retrieval_kd.pipeline.known_models import model_size
from retrieval_kd.pipeline.recipes import stages
from retrieval_kd.pipeline.white_box import scorer_of

if TYPE_CHECKING:
    from retrieval_kd.pipeline.costs import Lists
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan

FORWARD, TRAINED = 2, 6  # operations for each token and weight
INDEX_BYTES = 500  # BM25's of a passage, as measured on the embedded collection
CANDIDATE_BYTES = 40
TERMS = 30_522  # of the vocabulary that a masked-LM head tells apart


@dataclass(frozen=True)
class StepCost:
    """One step's; what could not be counted is named."""

    calls: int = 0  # of a teacher or a judge
    operations: float = 0.0
    disk: float = 0.0
    memory: float = 0.0  # at its peak
    unknown: tuple[str, ...] = ()


def step_costs(plan: Plan, counts: Counts) -> tuple[dict[str, StepCost], dict[str, StepCost]]:
    """By the keys of steps; and by their names, for steps of later rounds that are alike."""
    trained = plan.trained is not None
    found: dict[str, StepCost] = {}
    for _, stage in stages(plan) if trained else ():
        found |= dict(_of_stage(stage, replace(counts, plan=stage)))
    alike = {"search": found[key]} if trained and (key := _first_search(plan)) in found else {}
    for entry in plan.entries.evaluate:
        found |= dict(_of_results(plan, counts, entry))
    first = plan.entries.evaluate[0]
    if plan.values["engine"]["holds"] == "representations":
        alike["encode"] = found[plan.encoded(first).key]
    return found, alike


def _first_search(plan: Plan) -> str:
    return plan.candidates.source_run(plan.train_entries[0]).key


def _of_results(plan: Plan, counts: Counts, entry: Entry) -> Iterator[tuple[str, StepCost]]:
    """Encoding, searching and, where the teacher is the engine, its reranking."""
    yield plan.index(entry).key, _indexed(counts, entry)
    depth, holds = plan.values["evaluation"]["depth"], plan.values["engine"]["holds"]
    if holds == "scores":
        lists = reranked_lists(plan, entry)
        yield plan.bm25_run(entry, lists.each).key, _run(counts, entry, lists.each)
        asked = _asked(plan, counts, lists)
        yield plan.reranked(entry).key, replace(asked, disk=asked.disk + _run(counts, entry, lists.each).disk)
    elif holds == "texts":
        yield plan.run(entry).key, _run(counts, entry, depth)
    else:
        yield plan.encoded(entry).key, _encoded(plan, counts, entry)
        yield plan.run(entry).key, _searched(plan, counts, entry, depth)


def _of_stage(plan: Plan, counts: Counts) -> Iterator[tuple[str, StepCost]]:
    """Lists, the teacher's and the judge's calls, and the training."""
    lists, negatives = plan.candidates, plan.values["negatives"]
    taught = plan.pairing.taught() if plan.parts.needs_preferences else None
    for entry in {one.key: one for one in (*plan.train_entries, plan.reported_entry)}.values():
        yield plan.index(entry).key, _indexed(counts, entry)
        window = negatives.get("window")
        if window:
            yield lists.source_run(entry).key, _run(counts, entry, window[1])
        asked = mined_lists(plan, counts, entry)
        queries, pairs = asked.sizes(counts)
        yield lists.mined(entry).key, StepCost(disk=(pairs or 0) * CANDIDATE_BYTES)
        if plan.parts.needs_scores:
            yield lists.scored(entry).key, _asked(plan, counts, asked)
        if plan.parts.needs_preferences:
            yield plan.pairing.paired(entry).key, _judged(plan, queries)
    if (members := lists.taught()) is not None and plan.parts.needs_scores:
        yield members.key, _taught(plan, counts, {name: plan.parts.scorers[name] for name in plan.parts.to_teach})
    yield from _of_others(plan, counts)
    if taught is not None:
        yield taught.key, _taught(plan, counts, {"judge": plan.parts.judge})
    yield plan.training().key, _training(plan, counts)


def _of_others(plan: Plan, counts: Counts) -> Iterator[tuple[str, StepCost]]:
    """Teachers that are not the training's own: terms' own, and those that others learned from first."""
    for one in with_bases(plan.teachers):
        if one.key == "teacher":
            continue
        asked, its_counts = one.steps.plan, replace(counts, plan=one.steps.plan)
        for entry in {entry.key: entry for entry in (*plan.train_entries, plan.reported_entry)}.values():
            yield one.steps.scored(entry).key, _asked(asked, its_counts, mined_lists(asked, its_counts, entry))
        if (members := one.steps.taught()) is not None:
            nodes = {name: asked.parts.scorers[name] for name in asked.parts.to_teach}
            yield members.key, _taught(asked, its_counts, nodes)


# ---- one kind of step each


def _indexed(counts: Counts, entry: Entry) -> StepCost:
    passages = counts.passages(entry)
    return (
        StepCost(unknown=(f"passages of {entry.name}",)) if passages is None else StepCost(disk=passages * INDEX_BYTES)
    )


def _run(counts: Counts, entry: Entry, depth: int) -> StepCost:
    lines = counts.lines(entry, depth)
    if lines is None:
        return StepCost(unknown=(f"queries of {entry.label}",))
    return StepCost(disk=lines * counts.line_bytes(entry))


def _encoded(plan: Plan, counts: Counts, entry: Entry) -> StepCost:
    size, passages = _student_size(plan), counts.passages(entry)
    unknown = _unknown(plan, size, passages, entry)
    if size is None or passages is None:
        return StepCost(unknown=unknown)
    made = representation(plan.values, size)
    tokens = passages * _length(plan.values["student"], "passage", entry)
    operations = FORWARD * (size.multiplied + _head(plan, size)) * tokens
    return StepCost(operations=operations, disk=passages * made[1] if made else 0, memory=size.parameters * 4)


def _searched(plan: Plan, counts: Counts, entry: Entry, depth: int) -> StepCost:
    """Exact comparison of each query with each passage, whose representations are in memory."""
    run, size = _run(counts, entry, depth), _student_size(plan)
    passages, queries = counts.passages(entry), counts.queries(entry)
    if size is None or passages is None or queries is None:
        return replace(run, unknown=(*run.unknown, *_unknown(plan, size, passages, entry)))
    made = representation(plan.values, size)
    each = made[1] if made else 0
    student = plan.values["student"]
    compared = student["query"]["max_length"] if student.get("makes") == "tokens" else 1
    numbers = each / (8 if student.get("makes") == "terms" else 4)
    operations = FORWARD * numbers * compared * passages * queries
    if encodes_queries(student):
        operations += FORWARD * size.multiplied * queries * _length(student, "query", entry)
    return replace(run, operations=operations, memory=passages * each)


def _asked(plan: Plan, counts: Counts, lists: Lists) -> StepCost:
    """What the teacher's members do about lists."""
    queries, pairs = lists.sizes(counts)
    if queries is None or pairs is None:
        return StepCost(unknown=(f"queries of {lists.entry.label}",))
    total = StepCost(calls=pairs)
    for node in plan.parts.scorers.values():
        found = model_of(node)
        size = model_size(**found) if found else None
        if found and size is None:
            total = replace(total, unknown=(*total.unknown, f"size of {found['name']}"))
        if not keeps_vectors(node):
            tokens = pairs * node.get("max_length", 0)
            disk = pairs * SCORE_BYTES if stores_scores(node) else 0.0
        else:
            passages = min(pairs, counts.passages(lists.entry) or pairs)
            encoder = node["encoder"]
            tokens = passages * _length(encoder, "passage", lists.entry) + queries * _length(
                encoder, "query", lists.entry
            )
            disk = (queries + passages) * (size.dimension if size else 0) * 4
        operations = FORWARD * size.multiplied * tokens if size else 0.0
        total = replace(total, operations=total.operations + operations, disk=total.disk + disk)
    return total


def _judged(plan: Plan, queries: int | None) -> StepCost:
    node = plan.parts.judge
    if not asks_a_model(node):
        return StepCost()
    if queries is None:
        return StepCost(unknown=("pairs to judge",))
    calls = queries * plan.values["pairs"]["per_query"] * (2 if plan.values["teacher"]["orders"] == "both" else 1)
    found = model_of(node)
    size = model_size(**found) if found else None
    if size is None:
        return StepCost(calls=calls, disk=calls * SCORE_BYTES, unknown=(f"size of {found['name'] if found else 'it'}",))
    operations = FORWARD * size.multiplied * calls * node["max_length"]
    return StepCost(calls, operations, calls * SCORE_BYTES, size.parameters * 4)


def _taught(plan: Plan, counts: Counts, nodes: Mapping[str, Mapping[str, Any]]) -> StepCost:
    """The training of members, or of the judge, on the mined lists."""
    queries = _training_queries(plan, counts)
    total = StepCost(unknown=() if queries else ("training queries",))
    for node in nodes.values():
        found, train = model_of(node), node["train"]
        size = model_size(**found) if found else None
        if size is None or queries is None:
            continue
        texts = queries * train["epochs"] * (train.get("pairs") or 1 + train.get("negatives", 0))
        operations = TRAINED * size.multiplied * texts * node["max_length"]
        total = replace(total, operations=total.operations + operations, disk=total.disk + size.parameters * 4)
    return total


def _training(plan: Plan, counts: Counts) -> StepCost:
    size, queries = _student_size(plan), _training_queries(plan, counts)
    if size is None or queries is None:
        missing = () if queries else ("training queries",)
        return StepCost(unknown=(*missing, *_unknown(plan, size, 1, plan.train_entries[0])))
    trainer, student, entry = plan.values["trainer"], plan.values["student"], plan.train_entries[0]
    batches = optimizer_steps(trainer, queries) * trainer["accumulate"]
    per_query = texts_per_query(plan) * _length(student, "passage", entry) * (size.multiplied + _head(plan, size))
    if encodes_queries(student):
        per_query += _length(student, "query", entry) * size.multiplied
    operations = TRAINED * batches * trainer["batch_size"] * per_query
    read, unknown = _read_beside(plan)
    operations += batches * trainer["batch_size"] * read
    memory = sum(training_memory(plan, size))
    return StepCost(operations=operations, disk=size.parameters * 4, memory=memory, unknown=unknown)


def _read_beside(plan: Plan) -> tuple[float, tuple[str, ...]]:
    """Operations for each query of the white boxes that terms ask in every step, and what is not known of them."""
    operations = 0.0
    unknown: list[str] = []
    for term in plan.parts.of_tokens:
        pairs = 1 + plan.values["objective"][term].get("pairs_per_query", 0)
        node = scorer_of(plan, term)
        found = model_of(node)
        size = model_size(**found) if found else None
        if size is None:
            unknown.append(f"size of {found['name'] if found else 'the white box'}")
        else:
            operations += FORWARD * size.multiplied * pairs * node["max_length"]
    return operations, tuple(unknown)


# ---- parts of them


def _student_size(plan: Plan) -> EncoderSize | None:
    return model_size(plan.values["model"]) if plan.values["model"] else model_size(**plan.values["encoder"])


def _unknown(plan: Plan, size: EncoderSize | None, passages: int | None, entry: Entry) -> tuple[str, ...]:
    name = plan.values["model"] or plan.values["encoder"]["name"]
    return (*(() if size else (f"size of {name}",)), *(() if passages is not None else (f"passages of {entry.name}",)))


def _training_queries(plan: Plan, counts: Counts) -> int | None:
    found = [mined[1] if (mined := counts.candidates(one)) else counts.queries(one) for one in plan.train_entries]
    known = [count for count in found if count is not None]
    return (sum(known) or None) if len(known) == len(found) else None


def _length(student: Mapping[str, Any], side: str, entry: Entry) -> float:
    """Tokens of a text: what the collection states, at most what the student reads."""
    most = student[side]["max_length"] if side in student else 256
    told = stated(entry.data, f"{side}_tokens")
    return float(min(most, told) if told else most)


def _head(plan: Plan, size: EncoderSize) -> int:
    """Weights of the masked-LM head that each token of a sparse student's passage is multiplied by."""
    return size.dimension * TERMS if plan.values["student"].get("makes") == "terms" else 0


def model_of(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model that a scorer or judge asks: its name, and what is kept of it; None where it asks none."""
    encoder = node.get("encoder")
    if isinstance(encoder, Mapping):
        inner = encoder.get("encoder", encoder)
        return {"name": inner["name"], "layers": inner.get("layers"), "path": inner.get("path")}
    return {"name": node["name"]} if "name" in node else None
