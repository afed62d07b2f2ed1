"""What dark passages and pacing cost: making passages per 100,000 lists, and shares of a distillation step.

    python benchmarks/bench_dark.py [--quick] [--threads 1]

- Making: python_docs texts, 32 hard negatives and a positive a list, four negatives strengthened and four positives
  masked, all-MiniLM-L6-v2's tokenizer, 256 tokens; without the teacher, whose calls are those of eight more passages.
- A step: 16 queries x 8 passages of all-MiniLM-L6-v2, forward and backward, as a median; beside it pacing (weights and
  the update of its memory, which is full) and the diagnostics of a logged step, both on that very batch. They are timed
  by themselves: differences of whole steps would drown in the steps' own scatter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import MINILM, apart, beside_bar, keep, machine, python_docs

PACING_BAR = 0.05  # share of a step
POOL, LISTED, QUERIES, LENGTH = 32, 8, 16, 256
LOG_EVERY = 10


def making(lists: int) -> dict[str, float]:
    """Seconds per 100,000 lists, and passages made per list."""
    from retrieval_kd.contracts import Passage, Role
    from retrieval_kd.data.candidates import Candidate, Candidates
    from retrieval_kd.data.passages import PassageStore
    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.negatives.dark import DarkPassages, DarkStatistics
    from retrieval_kd.students.backbone import load_tokenizer

    texts, _ = python_docs()
    draw = np.random.default_rng(0)
    rows = []
    for query in range(lists):
        names = [f"p{row}" for row in draw.choice(len(texts), POOL + 1, replace=False)]
        hard = [Candidate(name, Role.HARD, rank, "", 0, 0) for rank, name in enumerate(names[1:], 1)]
        rows.append((f"q{query}", [Candidate(names[0], Role.POSITIVE, 0, "", 0, 1), *hard]))
    candidates = Candidates.from_lists(rows)
    kinds = {
        "reinforced": {"count": 4, "variant": "span", "share": [0.1, 0.5]},
        "masked": {"count": 4, "variant": "mask", "share": [0.3, 0.7]},
    }
    tokenizer = load_tokenizer(resolve_encoder(MINILM))
    dark = DarkPassages(**kinds, max_length=LENGTH, band=False, per_query=8, seed=1, tokenizer=tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        passages = PassageStore.build(
            Path(folder) / "all", (Passage(f"p{row}", "", text) for row, text in enumerate(texts))
        )
        started = time.perf_counter()
        made = [one for _, own in dark.make(candidates, passages, DarkStatistics()) for one in own]
        distinct = {one.passage_id: one for one in made}.values()
        PassageStore.build(Path(folder) / "made", (Passage(one.passage_id, "", one.text) for one in distinct), False)
        seconds = time.perf_counter() - started
    return {"seconds_per_100k_lists": seconds / lists * 100_000, "made_per_list": len(made) / lists}


def step(rounds: int, threads: int, layers: int | None, length: int) -> dict[str, float]:
    """Median seconds of a step, and of what is done beside it."""
    import torch

    from retrieval_kd.callbacks.diagnostics import gradient_shares, list_figures
    from retrieval_kd.contracts import Evidence, Side
    from retrieval_kd.objectives.listwise_kl import ListwiseKL
    from retrieval_kd.pacing.self_paced import SelfPaced

    torch.set_num_threads(threads)
    student, batch = _student_and_batch(layers, length)
    share = {"start": 0.3, "end": 1.0, "until": 1.0}
    pacing = SelfPaced("probability", "hard", share, 1.0, 4096, 1)
    pacing.seen.uniform_()
    term, taken = ListwiseKL(0.05, 1.0, "exclude"), {"step": [], "pacing": [], "diagnostics": []}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = part()
        taken[name].append(time.perf_counter() - started)
        return result

    def forward() -> tuple[Evidence, torch.Tensor]:
        queries, passages = student.encode(batch.queries, Side.QUERY), student.encode(batch.passages, Side.PASSAGE)
        evidence = Evidence(queries, passages, student.compare)
        return evidence, term(evidence, batch.signals, batch.signals.positive, torch.ones(QUERIES))

    def both() -> None:
        pacing(batch.signals, 0.5)
        pacing.step(batch.signals, 0.5)

    def diagnose() -> None:
        gradient_shares({"listwise_kl": loss}, evidence)
        list_figures(evidence.query_passage.detach(), batch.signals, 1.0)

    for _ in range(rounds + 1):
        started = time.perf_counter()
        evidence, loss = forward()
        half = time.perf_counter() - started
        timed("diagnostics", diagnose)
        timed("pacing", both)
        timed("step", loss.backward)
        taken["step"][-1] += half
    return {name: statistics.median(values[1:]) for name, values in taken.items()}  # the first warms up


def _student_and_batch(layers: int | None, length: int) -> tuple[Any, Any]:
    from retrieval_kd.contracts import Passage, Role
    from retrieval_kd.data.batches import BatchMaker
    from retrieval_kd.data.candidates import Candidate, Candidates
    from retrieval_kd.data.passages import PassageStore
    from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet
    from retrieval_kd.students.bi_encoder import build_bi_encoder

    student = build_bi_encoder(
        encoder={"name": MINILM, "layers": layers},
        shared=True,
        pooling="mean",
        similarity="cosine",
        query={"prompt": "", "max_length": 64},
        passage={"prompt": "", "max_length": length},
        inference={"precision": "fp32", "tokens_per_batch": 1024},
    ).train()
    texts, asked = python_docs()
    rows = iter(np.random.default_rng(0).permutation(len(texts)).tolist())
    roles = [Role.POSITIVE, *[Role.HARD] * (LISTED - 1)]
    lists = Candidates.from_lists(
        (f"q{query}", [Candidate(f"p{next(rows)}", role, 0, "", 0, 0) for role in roles]) for query in range(QUERIES)
    )
    scores = np.random.default_rng(1).normal(0, 2, len(lists)).astype(np.float32)
    queries = {f"q{query}": asked[query] for query in range(QUERIES)}
    with tempfile.TemporaryDirectory() as folder:
        store = PassageStore.build(
            Path(folder) / "all", (Passage(f"p{row}", "", text) for row, text in enumerate(texts))
        )
        signalled = Signalled(scores, np.stack([scores, scores * 2]))
        training_set = TrainingSet(queries, None, lists, store, signalled, Draw(LISTED - 1, 0))
        return student, BatchMaker(training_set, student.tokenizer)([(query, 0) for query in range(QUERIES)])


def main() -> int:
    """Measure, print, keep; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small; keeps nothing")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    setting = machine("torch", "transformers", "tokenizers")
    made = apart(making, 50 if arguments.quick else 2000)
    size = (1, 32) if arguments.quick else (None, LENGTH)
    taken = apart(step, 1 if arguments.quick else 9, arguments.threads, *size)
    figures = {
        "making: seconds per 100,000 lists": beside_bar(
            "making: seconds per 100,000 lists", made["seconds_per_100k_lists"]
        ),
        "passages made per list": beside_bar("passages made per list", made["made_per_list"]),
        "step, seconds": beside_bar("step, seconds", taken["step"]),
        "pacing, share of a step": beside_bar(
            "pacing, share of a step", taken["pacing"] / taken["step"], PACING_BAR, more=False
        ),
        "diagnostics, share of a logged step": beside_bar(
            "diagnostics, share of a logged step", taken["diagnostics"] / taken["step"]
        ),
        "diagnostics, share of all steps": beside_bar(
            f"diagnostics, share of all steps ({LOG_EVERY})",
            taken["diagnostics"] / taken["step"] / LOG_EVERY,
            PACING_BAR,
            more=False,
        ),
    }
    if not arguments.quick:
        keep("dark", {"machine": setting, "threads": arguments.threads, "figures": figures})
    return 0 if all(row.get("held", True) for row in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
