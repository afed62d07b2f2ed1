"""A distillation step beside sentence-transformers': 16 queries x 8 passages each, listwise KL, all-MiniLM-L6-v2.

    python benchmarks/bench_kd_step.py [--quick] [--threads 1] [--precision auto]

Both train on the same lists of python_docs texts (no passage is in two lists; passages are cut at 256 tokens, queries
have at most 64), from the same weights, dropout on, with fused AdamW and gradients clipped at 1. A step is everything
between two batches: tokenizing and padding, forward, loss, backward, clipping, optimizer.

- Ours runs as in training: the batch maker, the training step and the optimizer under Lightning's trainer.
- Theirs is DistillKLDivLoss with its own data collator, in a plain loop: its trainer would only add to that. Two modes:
  the passage columns merged into one forward pass, its default, and one forward pass per column.

Every run is a process of its own: load, one step to warm up, then the timed step; a round has one run of each system,
another batch in every round. Peak memory is what the process's high-water mark rose by over its steps. At first the
loss of the same batch, dropout off, must be equal in all three, so that the work is provably the same.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from common import MINILM, apart, beside_bar, keep, machine, python_docs

SYSTEMS = ("ours", "merged", "columns")
QUERY_LENGTH, PASSAGE_LENGTH = 64, 256
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.05, 1.0
RATE, DECAY, CLIP = 1e-4, 0.01, 1.0
BARS = {"speed": 1.3, "memory": 1.0, "loss": 1e-4}


@dataclass(frozen=True)
class Lists:
    """One batch: each query with its own passages and the teacher's scores of them."""

    queries: list[str]
    passages: list[list[str]]
    scores: np.ndarray  # [Q, n]


@dataclass(frozen=True)
class How:
    """What a run is given beside its batch."""

    system: str
    bf16: bool
    threads: int
    steps: int  # the first warms up


Part = Callable[[How, Lists], dict[str, float]]


def draw_lists(count: int, queries: int, per_query: int) -> list[Lists]:
    """Batches of random lists; no passage occurs twice in one."""
    from transformers import AutoTokenizer

    from retrieval_kd.data.weights import resolve_encoder

    passages, asked = python_docs()
    tokenizer = AutoTokenizer.from_pretrained(str(resolve_encoder(MINILM)))
    draw = np.random.default_rng(0)
    rows = draw.permutation(len(passages))[: count * queries * per_query].reshape(count, queries, per_query)
    fitting = iter(asked[row] for row in draw.permutation(len(asked)) if _fits(tokenizer, asked[row]))
    return [
        Lists(
            [next(fitting) for _ in range(queries)],
            [[passages[row] for row in part] for part in batch],
            draw.normal(0, 2, (queries, per_query)).astype(np.float32),
        )
        for batch in rows
    ]


def _fits(tokenizer: Any, text: str) -> bool:
    return len(tokenizer(text)["input_ids"]) <= QUERY_LENGTH


def peak_mb() -> float:
    """High-water mark of this process's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(how: How, lists: Lists) -> dict[str, float]:
    """The dense student's part."""
    return timed(Ours if how.system == "ours" else Theirs, how, lists)


def timed(kind: type[Ours] | type[Theirs], how: How, lists: Lists) -> dict[str, float]:
    """Seconds of the last step and what memory rose by, or the loss without dropout; in a process of its own."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(how.threads)
    torch.manual_seed(0)
    system = kind(how, lists)
    if not how.steps:
        return {"loss": system.loss()}
    before = peak_mb()
    taken = system(how.steps)
    return {"seconds": taken[-1], "peak_mb": peak_mb() - before}


class Ours:
    """A student under Lightning's trainer, here the dense one."""

    temperature = STUDENT_TEMPERATURE
    clock = staticmethod(time.perf_counter)

    def __init__(self, how: How, lists: Lists) -> None:
        from retrieval_kd.data.batches import BatchMaker

        self.how = how
        self.student = self.built()
        self.student.prepare(_training(self.temperature))
        self.folder = tempfile.TemporaryDirectory()
        data = _training_set(lists, Path(self.folder.name))
        self.maker = BatchMaker(data, self.student.tokenizer)
        self.items = [(query, 0) for query in range(len(lists.queries))]

    def built(self) -> Any:
        """As it starts."""
        from retrieval_kd.data.tokenize import SideSettings
        from retrieval_kd.students.bi_encoder import EncoderSource, build_bi_encoder
        from retrieval_kd.students.student import Inference

        query, passage = SideSettings("", QUERY_LENGTH), SideSettings("", PASSAGE_LENGTH)
        inference = Inference("bf16" if self.how.bf16 else "fp32", 1024)
        return build_bi_encoder(EncoderSource(MINILM, None), True, "mean", "cosine", query, passage, inference)

    def loss(self) -> float:
        """Evidence and objective, as the training step computes them."""
        import torch

        from retrieval_kd.contracts import Evidence, Side

        batch = self.maker(self.items)
        self.student.eval()
        with torch.no_grad():
            passages = self.student.encode(batch.passages, Side.PASSAGE)
            evidence = Evidence(self.student.encode(batch.queries, Side.QUERY), passages, self.student.compare)
            objective = _training(self.temperature).objective
            terms = objective(evidence, batch.signals, ~batch.signals.positive, torch.ones(len(self.items)))
        return float(sum(terms.values()))

    def __call__(self, steps: int) -> list[float]:
        """Seconds from the end of one step to the end of the next, the first from the start of training."""
        import pytorch_lightning as pl
        from torch.utils.data import DataLoader

        logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
        ends: list[float] = []
        clock = self.clock

        class Clock(pl.Callback):
            def on_train_start(self, *_: Any) -> None:
                ends.append(clock())

            def on_train_batch_end(self, *_: Any) -> None:
                ends.append(clock())

        loader = DataLoader(self.items * steps, batch_size=len(self.items), collate_fn=self.maker)
        trainer = pl.Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if self.how.bf16 else "32-true",
            max_epochs=1,
            logger=False,
            gradient_clip_val=CLIP,
            callbacks=[Clock()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=self.folder.name,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(self.student, loader)
        return np.diff(ends).tolist()


def _training(student_temperature: float) -> Any:
    from functools import partial

    import torch

    from retrieval_kd.filters.none import KeepAll
    from retrieval_kd.objectives.listwise_kl import ListwiseKL
    from retrieval_kd.objectives.weighted_sum import WeightedSum
    from retrieval_kd.pacing.none import Constant
    from retrieval_kd.regularizers.none import NoPenalty
    from retrieval_kd.students.student import Training

    objective = WeightedSum({"kl": ListwiseKL(student_temperature, TEACHER_TEMPERATURE, "exclude")}, {"kl": 1.0})
    optimizer = partial(torch.optim.AdamW, lr=RATE, weight_decay=DECAY, fused=True)
    return Training(objective, KeepAll(), Constant(), NoPenalty(), optimizer, warmup=0.0, gradient_cache=False)


def _training_set(lists: Lists, folder: Path) -> Any:
    from retrieval_kd.contracts import Passage, Role
    from retrieval_kd.data.candidates import Candidate, Candidates
    from retrieval_kd.data.passages import PassageStore
    from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet

    ids = [[f"p{query}-{rank}" for rank in range(len(part))] for query, part in enumerate(lists.passages)]
    named = zip(chain.from_iterable(ids), chain.from_iterable(lists.passages), strict=True)
    store = PassageStore.build(folder / "passages", (Passage(name, "", text) for name, text in named))
    candidates = Candidates.from_lists(
        (
            f"q{query}",
            [
                Candidate(name, Role.HARD if rank else Role.POSITIVE, rank, "drawn", 0, 0)
                for rank, name in enumerate(names)
            ],
        )
        for query, names in enumerate(ids)
    )
    queries = {f"q{query}": text for query, text in enumerate(lists.queries)}
    judgements = {f"q{query}": {names[0]: 1} for query, names in enumerate(ids)}
    signalled = Signalled(lists.scores.ravel(), lists.scores.reshape(1, -1))
    return TrainingSet(queries, judgements, candidates, store, signalled, Draw(lists.scores.shape[1] - 1, 0))


class Theirs:
    """sentence-transformers' loss and collator, a plain loop around them."""

    temperature = STUDENT_TEMPERATURE

    def __init__(self, how: How, lists: Lists) -> None:
        self.how = how
        self.model, loss, collator = self.built()
        self.loss_module = loss(
            self.model, student_temperature=self.temperature, teacher_temperature=TEACHER_TEMPERATURE
        )
        self.collator = collator(self.model.preprocess)
        self.columns = ["query", *(f"passage{rank}" for rank in range(lists.scores.shape[1]))]
        self.rows = [
            dict(zip(self.columns, [query, *passages], strict=True)) | {"label": scores.tolist()}
            for query, passages, scores in zip(lists.queries, lists.passages, lists.scores, strict=True)
        ]

    def built(self) -> tuple[Any, Any, Any]:
        """Model, and the classes of loss and collator."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

        from retrieval_kd.data.weights import resolve_encoder

        model = SentenceTransformer(str(resolve_encoder(MINILM)), device="cpu")
        model.max_seq_length = PASSAGE_LENGTH
        return model, DistillKLDivLoss, SentenceTransformerDataCollator

    def _loss(self) -> Any:
        import torch
        from sentence_transformers.base.losses.merged_forward import column_merging_disabled

        batch = self.collator(self.rows)
        features = [
            {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
            for column in self.columns
        ]
        mode = column_merging_disabled() if self.how.system == "columns" else nullcontext()
        with mode, torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.how.bf16):
            return self.loss_module(features, batch["label"])

    def loss(self) -> float:
        """Without the factor of the squared student temperature, which its gradients carry along."""
        import torch

        self.model.eval()
        with torch.no_grad():
            return float(self._loss()) / self.temperature**2

    def __call__(self, steps: int) -> list[float]:
        """Seconds of every step."""
        import torch

        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        ends = [time.perf_counter()]
        for _ in range(steps):
            loss = self._loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            ends.append(time.perf_counter())
        return np.diff(ends).tolist()


def measure(batches: list[Lists], how: Mapping[str, How], part: Part, bars: Mapping[str, float]) -> dict[str, Any]:
    """Check that the work is the same, alternate, print each figure beside its bar.

    Args:
        batches: One for each round.
        how: What the runs of each system are given; ``steps`` 0 asks for the loss in float32.
        part: What is done in a process of its own.
        bars: speed, memory and loss.
    """
    from retrieval_kd.functional.precision import computes_in_bf16

    losses = {name: apart(part, replace(one, bf16=False, steps=0), batches[0])["loss"] for name, one in how.items()}
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for number, lists in enumerate(batches):
        for system in SYSTEMS:
            runs[system].append(apart(part, how[system], lists))
        said = (f"{s} {runs[s][-1]['seconds']:.2f} s {runs[s][-1]['peak_mb']:,.0f} MB" for s in SYSTEMS)
        print(f"  round {number + 1}: " + ", ".join(said) + f", load {os.getloadavg()[0]:.1f}", flush=True)
    emulated = how["ours"].bf16 and not computes_in_bf16("cpu")
    why_not = "bfloat16 is emulated on this hardware" if emulated else ""
    figures = _figures(runs, len(batches[0].queries), bars, why_not)
    gap = max(abs(losses["ours"] - losses[system]) for system in SYSTEMS)
    figures["loss_gap_without_dropout"] = beside_bar("largest gap of the losses, dropout off", gap, bars["loss"], False)
    return {"losses_without_dropout": losses, "runs": runs, "figures": figures}


def _figures(
    runs: dict[str, list[dict[str, float]]], queries: int, bars: Mapping[str, float], why_not: str
) -> dict[str, Any]:
    rates = {system: [queries / each["seconds"] for each in runs[system]] for system in SYSTEMS}
    figures = {
        f"{system}_queries_per_second": beside_bar(f"{system}, queries a second", statistics.median(rates[system]))
        for system in SYSTEMS
    }
    for other in ("merged", "columns"):
        against = statistics.median(mine / its for mine, its in zip(rates["ours"], rates[other], strict=True))
        figures[f"speed_against_{other}"] = beside_bar(f"speed against {other}", against)
    better = min(figures[f"speed_against_{other}"]["value"] for other in ("merged", "columns"))
    figures["speed_against_the_better"] = beside_bar(
        "speed against the better of its modes", better, bars["speed"], why_not=why_not
    )
    peaks = {system: statistics.median(each["peak_mb"] for each in runs[system]) for system in SYSTEMS}
    for system in SYSTEMS:
        figures[f"{system}_peak_mb"] = beside_bar(f"{system}, peak memory of the steps, MB", peaks[system])
    share = peaks["ours"] / min(peaks["merged"], peaks["columns"])
    figures["memory_against_the_better"] = beside_bar(
        "memory against the leaner of its modes", share, bars["memory"], False
    )
    return figures


def main() -> int:
    """Measure, print, keep; 1 where a bar that applies was missed."""
    arguments, setting, bf16 = settings(__doc__)
    how = {system: How(system, bf16, arguments.threads, 2) for system in SYSTEMS}
    batches = draw_lists(arguments.rounds, arguments.queries, 8)
    return kept("kd_step", arguments, setting, lambda: measure(batches, how, run, BARS))


def settings(about: str | None) -> tuple[argparse.Namespace, dict[str, Any], bool]:
    """The command line, what is kept of it, and whether bfloat16 is measured."""
    from retrieval_kd.functional.precision import autocasts, computes_in_bf16

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 queries, 3 rounds; no result file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    arguments = parser.parse_args()
    arguments.queries, arguments.rounds = (4, 3) if arguments.quick else (16, 5)
    native, bf16 = computes_in_bf16("cpu"), autocasts(arguments.precision, "cpu")
    print(f"precision: {'bf16' if bf16 else 'fp32'}; this hardware computes in bf16: {native}")
    setting = {
        "queries": arguments.queries,
        "passages_per_query": 8,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "precision": "bf16" if bf16 else "fp32",
        "hardware_bf16": native,
    }
    return arguments, setting, bf16


def kept(
    name: str, arguments: argparse.Namespace, setting: Mapping[str, Any], measured: Callable[[], dict[str, Any]]
) -> int:
    """Measure on the machine as it is, and keep the result of a full run."""
    about = machine("torch", "transformers", "sentence-transformers", "pytorch-lightning", "numpy")
    result = {"setting": setting, **measured(), "machine": about}
    if not arguments.quick:
        keep(name if arguments.precision == "auto" else f"{name}_{arguments.precision}", result)
    return int(any(row.get("held") is False for row in result["figures"].values()))


if __name__ == "__main__":
    sys.exit(main())
