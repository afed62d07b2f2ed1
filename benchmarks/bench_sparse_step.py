"""Forward and backward of a sparse student beside sentence-transformers' SparseEncoder: 32 documents, six-layer MiniLM.

    python benchmarks/bench_sparse_step.py [--quick] [--threads 1] [--precision auto] [--terms 400]

Both read one checkpoint: all-MiniLM-L6-v2 with BERT's masked-LM head, its transform begun at the identity, its decoder
tied to the input embeddings, its bias shifted so that passages have ``--terms`` active terms in the mean (0: no shift,
and nearly every term is active). Documents are python_docs texts of their own lengths, cut at 128 tokens. The loss is
the sum of pooled activations times a fixed random matrix, plus FLOPS, both without special tokens, which ours silences.
Timed is forward and backward with dropout on, without tokenizing; ours goes through the student's own encode, in groups
of like length as in training; theirs is one padded batch, as its collator would make it.

Every run is a process of its own: load, one step to warm up, then the timed step; a round has one run of each system,
another batch in every round. Peak memory is what the process holds at most in its steps beyond what it held before. At
first the loss of one batch, dropout off, must be equal in both, so that the work is provably the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import MINILM, apart, beside_bar, keep, machine, python_docs

SYSTEMS = ("ours", "theirs")
LENGTH = 128
SPEED = {"fp32": 2.0, "bf16": 1.7}
MEMORY, LOSS = 0.5, 1e-4
ENCODING = {"logs": 1, "prune": 0.0, "query_weights": "binary"}


@dataclass(frozen=True)
class How:
    """What a run is given beside its documents."""

    system: str
    folder: str
    bf16: bool
    threads: int
    steps: int  # the first warms up


def draw_documents(rounds: int, count: int) -> list[list[str]]:
    """Batches of random documents; none occurs twice."""
    passages, _ = python_docs()
    rows = np.random.default_rng(0).permutation(len(passages))[: rounds * count].reshape(rounds, count)
    return [[passages[row] for row in batch] for batch in rows]


def make_checkpoint(folder: str, terms: int) -> None:
    """A masked LM of MiniLM's weights that both systems read."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.students.mlm_head import masked_lm

    torch.manual_seed(0)
    logging.set_verbosity_error()  # that a head is missing is known
    logging.disable_progress_bar()
    name = str(resolve_encoder(MINILM))
    model = AutoModelForMaskedLM.from_pretrained(name)
    transform = model.cls.predictions.transform
    torch.nn.init.eye_(transform.dense.weight)
    torch.nn.init.zeros_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(name).save_pretrained(folder)
    if terms:
        passages, _ = python_docs()
        student = _student(How("ours", folder, False, 1, 0))
        student.calibrate(passages[:: len(passages) // 128], terms)
        masked_lm(student.encoder, student.head).save_pretrained(folder)


def _student(how: How) -> Any:
    from retrieval_kd.data.tokenize import SideSettings
    from retrieval_kd.students.bi_encoder import EncoderSource
    from retrieval_kd.students.sparse_encoder import build_sparse_encoder
    from retrieval_kd.students.student import Inference

    side = SideSettings("", LENGTH)
    inference = Inference("bf16" if how.bf16 else "fp32", 1024)
    return build_sparse_encoder(
        EncoderSource(how.folder, None), query=side, passage=side, inference=inference, **ENCODING
    )


class Ours:
    """The student, grouped as in training."""

    def __init__(self, how: How, documents: list[str]) -> None:
        from retrieval_kd.contracts import Side
        from retrieval_kd.data.batches import GROUP_OVERHEAD
        from retrieval_kd.data.length_groups import plan_groups
        from retrieval_kd.functional.allocator import reuse_memory

        reuse_memory()  # as training does
        self.model = _student(how)
        self.side = Side.PASSAGE
        self.tokens = self.model.tokenizer.groups(
            documents, self.side, lambda lengths: plan_groups(lengths, GROUP_OVERHEAD)
        )
        self.padded = sum(group.input_ids.numel() for group in self.tokens.groups)

    def pooled(self) -> Any:
        """Activations [N, V]."""
        return self.model.encode(self.tokens, self.side)["activations"]


class Theirs:
    """SparseEncoder: masked LM and SpladePooling by maximum."""

    def __init__(self, how: How, documents: list[str]) -> None:
        from sentence_transformers import SparseEncoder
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.model = SparseEncoder(how.folder, device="cpu")
        self.model.max_seq_length = LENGTH
        self.features = self.model.preprocess(documents)
        self.padded = self.features["input_ids"].numel()

    def pooled(self) -> Any:
        """Activations [N, V]."""
        return self.model(dict(self.features))["sentence_embedding"]


def _prepare(how: How, documents: list[str]) -> tuple[Any, Any]:
    """A system, and the matrix of the loss, zero at special tokens."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(how.threads)
    system = (Ours if how.system == "ours" else Theirs)(how, documents)
    tokenizer = system.model.tokenizer
    special = getattr(tokenizer, "tokenizer", tokenizer).all_special_ids
    size = system.model.vocabulary if how.system == "ours" else system.model.tokenizer
    factors = torch.randn(len(documents), len(size), generator=torch.Generator().manual_seed(0))
    factors[:, special] = 0.0
    return system, factors


def _loss(how: How, system: Any, factors: Any) -> Any:
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bf16):
        pooled = system.pooled()
    ordinary = (factors[0] != 0).float()
    return (pooled * factors).sum() + (pooled.float().mean(0) * ordinary).square().sum()


def look(how: How, documents: list[str]) -> dict[str, float]:
    """Loss with dropout off, and how much there is to do."""
    import torch

    system, factors = _prepare(how, documents)
    system.model.eval()
    with torch.no_grad():
        active = ((system.pooled() > 0) & (factors != 0)).sum(1).float().mean()
        return {
            "loss": float(_loss(how, system, factors)),
            "active_terms": float(active),
            "padded_tokens": system.padded,
        }


def run(how: How, documents: list[str]) -> dict[str, float]:
    """Seconds of the last step and what memory rose to; runs in a process of its own."""
    import torch

    system, factors = _prepare(how, documents)
    system.model.train()
    torch.manual_seed(0)
    before = _memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # loading may have held more than the steps will
    for _ in range(how.steps):
        system.model.zero_grad(set_to_none=True)
        start, busy = time.perf_counter(), time.process_time()
        _loss(how, system, factors).backward()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = _memory_mb("VmHWM")
    return {"seconds": seconds, "processor_seconds": busy, "peak_mb": peak - before, "process_mb": peak}


def _memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure(arguments: argparse.Namespace, bf16: bool, native: bool) -> dict[str, Any]:
    """Check that the work is the same, alternate, print each figure beside its bar."""
    batches = draw_documents(arguments.rounds, arguments.documents)
    with tempfile.TemporaryDirectory() as folder:
        apart(make_checkpoint, folder, arguments.terms)
        how = {system: How(system, folder, bf16, arguments.threads, 2) for system in SYSTEMS}
        seen = {s: apart(look, How(s, folder, False, arguments.threads, 0), batches[0]) for s in SYSTEMS}
        runs: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
        for number, documents in enumerate(batches):
            for system in SYSTEMS[:: 1 if number % 2 else -1]:
                runs[system].append(apart(run, how[system], documents))
            said = (f"{s} {runs[s][-1]['seconds']:.2f} s {runs[s][-1]['peak_mb']:,.0f} MB" for s in SYSTEMS)
            print(f"  round {number + 1}: " + ", ".join(said) + f", load {os.getloadavg()[0]:.1f}", flush=True)
    why_not = "" if native or not bf16 else "bfloat16 is emulated on this hardware"
    figures = _figures(runs, SPEED["bf16" if bf16 else "fp32"], why_not)
    gap = abs(seen["ours"]["loss"] - seen["theirs"]["loss"]) / abs(seen["theirs"]["loss"])
    figures["loss_gap_without_dropout"] = beside_bar("relative gap of the losses, dropout off", gap, LOSS, False)
    return {"without_dropout": seen, "runs": runs, "figures": figures}


def _figures(runs: dict[str, list[dict[str, float]]], bar: float, why_not: str) -> dict[str, Any]:
    figures = {}
    for system in SYSTEMS:
        for name, unit in {
            "seconds": "seconds a step",
            "peak_mb": "peak of the step, MB",
            "process_mb": "process, MB",
        }.items():
            value = statistics.median(each[name] for each in runs[system])
            figures[f"{system}_{name}"] = beside_bar(f"{system}, {unit}", value)

    def ratio(name: str, over: str, under: str) -> float:
        pairs = zip(runs[over], runs[under], strict=True)
        return statistics.median(one[name] / other[name] for one, other in pairs)

    figures["speed"] = beside_bar("speed against theirs", ratio("seconds", "theirs", "ours"), bar, why_not=why_not)
    figures["speed_processor"] = beside_bar("the same, processor time", ratio("processor_seconds", "theirs", "ours"))
    figures["memory"] = beside_bar(
        "memory of the step against theirs", ratio("peak_mb", "ours", "theirs"), MEMORY, False
    )
    figures["process"] = beside_bar("memory of the process against theirs", ratio("process_mb", "ours", "theirs"))
    return figures


def main() -> int:
    """Measure, print, keep; 1 where a bar that applies was missed."""
    from retrieval_kd.functional.precision import autocasts, computes_in_bf16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 documents, 3 rounds; no result file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--terms", type=int, default=400)
    arguments = parser.parse_args()
    arguments.documents, arguments.rounds = (8, 3) if arguments.quick else (32, 5)
    native, bf16 = computes_in_bf16("cpu"), autocasts(arguments.precision, "cpu")
    about = machine("torch", "transformers", "sentence-transformers")
    result = {
        "setting": {
            "documents": arguments.documents,
            "longest": LENGTH,
            "terms": arguments.terms,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "precision": "bf16" if bf16 else "fp32",
            "hardware_bf16": native,
        },
        **measure(arguments, bf16, native),
        "machine": about,
    }
    if not arguments.quick and arguments.terms == 400:
        keep("sparse_step" if arguments.precision == "auto" else f"sparse_step_{arguments.precision}", result)
    return int(any(row.get("held") is False for row in result["figures"].values()))


if __name__ == "__main__":
    sys.exit(main())
