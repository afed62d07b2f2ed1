"""Encoding a corpus beside sentence-transformers: the same all-MiniLM-L6-v2 weights, the same texts and threads.

    python benchmarks/bench_encode.py [--quick] [--threads 1] [--precision auto]

The texts are python_docs passages, cut at 256 tokens by both. sentence-transformers sorts its input by length itself;
its best batch size of 8 to 128 is searched first, on a part of the texts, and is then measured beside its default
(32, float32). Runs alternate: ours, its best, its default, ours, and so on, each over all the texts; what is stated is
the median of the ratios within a round. Cosines are to sentence-transformers' own float32 vectors.

The bars are for bfloat16. Where the hardware does not compute in it, float32 is measured beside float32, and a few
texts in (emulated) bfloat16, for the cosines alone; ``--precision bf16`` measures the emulation too, on fewer texts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from common import MINILM, beside_bar, keep, machine, python_docs
from sentence_transformers import SentenceTransformer

from retrieval_kd.contracts import Side
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.functional.precision import computes_in_bf16
from retrieval_kd.students.bi_encoder import EncoderSource, build_bi_encoder
from retrieval_kd.students.student import Inference

LENGTH = 256
SIZES = (8, 16, 32, 64, 128)
TOKENS_PER_BATCH = 1024  # the student's default
BARS = {"best": 1.15, "default": 2.0, "cosine": 0.999}
Encode = Callable[[Sequence[str]], np.ndarray]


def ours(precision: str) -> Encode:
    """The dense student as the configuration builds it, in the precision asked."""
    settings = SideSettings(prompt="", max_length=LENGTH)
    student = build_bi_encoder(
        EncoderSource(MINILM, None), True, "mean", "cosine", settings, settings, Inference(precision, TOKENS_PER_BATCH)
    )
    return lambda texts: student.encode_texts(texts, Side.PASSAGE)["vectors"].numpy()


def theirs(dtype: torch.dtype) -> Callable[[int], Encode]:
    """sentence-transformers with weights of ``dtype``, by batch size."""
    model = SentenceTransformer(str(resolve_encoder(MINILM)), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = LENGTH

    def of_size(size: int) -> Encode:
        def encode(texts: Sequence[str]) -> np.ndarray:
            vectors = model.encode(list(texts), batch_size=size, convert_to_tensor=True, show_progress_bar=False)
            return vectors.to(torch.float32).numpy()

        return encode

    return of_size


def seconds(encode: Encode, texts: Sequence[str]) -> float:
    """How long all texts take."""
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def best_size(of_size: Callable[[int], Encode], texts: Sequence[str], passes: int) -> tuple[int, dict[int, float]]:
    """The batch size that is fastest, and texts a second for each; the quickest of ``passes``."""
    taken = {size: min(seconds(of_size(size), texts) for _ in range(passes)) for size in SIZES}
    return min(taken, key=lambda size: taken[size]), {size: len(texts) / taken[size] for size in SIZES}


def alternate(systems: dict[str, Encode], texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Texts a second of every system, one run of each in every round."""
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds):
        for name, encode in systems.items():
            rates[name].append(len(texts) / seconds(encode, texts))
        print(f"  round {number + 1}: " + ", ".join(f"{name} {rates[name][-1]:.1f}/s" for name in systems), flush=True)
    return rates


def cosines(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Cosine of each row with its counterpart, in float64."""
    left, right = vectors.astype(np.float64), reference.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def ratio(rates: dict[str, list[float]], other: str) -> float:
    """Median over the rounds of ours against ``other``."""
    return statistics.median(mine / its for mine, its in zip(rates["ours"], rates[other], strict=True))


def measure(arguments: argparse.Namespace, bf16: bool, why_not: str) -> dict[str, Any]:
    """Search, alternate, compare the vectors; print each figure beside its bar."""
    passages, _ = python_docs()
    draw = np.random.default_rng(0).permutation(len(passages))[: arguments.texts]
    texts = [passages[row] for row in draw]
    default = theirs(torch.float32)(32)
    of_size = theirs(torch.bfloat16 if bf16 else torch.float32)
    precision = "bf16" if bf16 else "fp32"
    encode = ours(precision)
    for each in (encode, default):
        each(texts[:16])
    size, search = best_size(of_size, texts[: arguments.searched], 1 if arguments.quick else 2)
    print(f"sentence-transformers' best batch size in {precision}: {size}  {search}", flush=True)
    systems = {"ours": encode, "best": of_size(size), "default": default}
    rates = alternate(systems, texts, arguments.rounds)
    few = texts[: arguments.few]
    reference = default(few)
    same = cosines(encode(few), reference)
    half = same if bf16 else cosines(ours("bf16")(few), reference)
    their_half = cosines(of_size(size)(few) if bf16 else theirs(torch.bfloat16)(8)(few), reference)
    figures = {
        f"{name}_texts_per_second": beside_bar(f"{name}, texts a second", statistics.median(rate))
        for name, rate in rates.items()
    }
    for other in ("best", "default"):
        key = f"{precision}_against_its_{other}"
        figures[key] = beside_bar(
            f"ours ({precision}) against its {other}", ratio(rates, other), BARS[other], why_not=why_not
        )
    for name, values in ((precision, same), ("bf16", half)):
        figures[f"cosine_{name}_least"] = beside_bar(f"least cosine, ours in {name}", values.min(), BARS["cosine"])
        figures[f"cosine_{name}_mean"] = beside_bar(f"mean cosine, ours in {name}", values.mean())
    figures["cosine_bf16_theirs_least"] = beside_bar("least cosine, sentence-transformers in bf16", their_half.min())
    return {
        "best_batch_size": size,
        "search_texts_per_second": search,
        "runs_texts_per_second": rates,
        "figures": figures,
    }


def main() -> int:
    """Measure, print, keep; 1 where a bar that applies was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds; no result file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "bf16"), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    native = computes_in_bf16("cpu")
    bf16 = native or arguments.precision == "bf16"
    emulated = bf16 and not native
    arguments.texts, arguments.searched, arguments.rounds = (96, 96, 3) if arguments.quick else (512, 192, 5)
    arguments.texts, arguments.searched = (96, 24) if emulated else (arguments.texts, arguments.searched)
    arguments.few = 16 if arguments.quick else 64
    why_not = "" if native else "no bfloat16 in this hardware, so float32 beside float32"
    why_not = "bfloat16 is emulated on this hardware" if emulated else why_not
    about = machine("torch", "transformers", "sentence-transformers", "numpy")
    result = {
        "setting": {
            "texts": arguments.texts,
            "length": LENGTH,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "texts_of_cosines": arguments.few,
            "hardware_bf16": native,
        },
        **measure(arguments, bf16, why_not),
        "machine": about,
    }
    if not arguments.quick:
        keep("encode_bf16_emulated" if emulated else "encode", result)
    return int(any(row.get("held") is False for row in result["figures"].values()))


if __name__ == "__main__":
    sys.exit(main())
