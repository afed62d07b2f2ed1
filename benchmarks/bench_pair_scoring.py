"""Judging pairs beside a plain loop over Hugging Face batches of the same model: both orders of every pair.

    python benchmarks/bench_pair_scoring.py [--quick] [--threads 1]

The model is an encoder-decoder of T5-small's shape with random weights, for no hub is asked: what it says means
nothing, what it costs is what a trained one costs. Its tokenizer is fitted to python_docs, whose queries and passages
are the texts, in duoT5's prompt, cut at 512 tokens by both. The loop takes pairs as they come, first in one order and
then in the other, in batches that are padded to their longest prompt; its best batch size of 4 to 64 is searched first,
on a part of the pairs, and measured beside 32. Runs alternate; what is stated is the median of the ratios of a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, beside_bar, keep, machine, python_docs

from retrieval_kd.teachers.language_model import PairwisePrompt

SIZES = (4, 8, 16, 32, 64)
USUAL = 32
LENGTH = 512
BAR = 1.3
VOCABULARY = 8000
SHAPES = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}  # T5-small's
TINY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
Triples = tuple[list[str], list[str], list[str]]


def settings() -> dict[str, Any]:
    """The judge as its option configures it."""
    import yaml

    node = yaml.safe_load((ROOT / "conf" / "judge" / "sequence_to_sequence.yaml").read_text())
    return {name: node[name] for name in ("template", "answers", "tokens_per_batch")}


def build_model(folder: Path, texts: Sequence[str], shape: dict[str, int]) -> str:
    """Random weights and a unigram tokenizer that is fitted to the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    fitted = Tokenizer(models.Unigram())
    fitted.pre_tokenizer = pre_tokenizers.Metaspace()
    fitted.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=VOCABULARY, show_progress=False))
    pieces = [(piece, score) for piece, score in json.loads(fitted.to_str())["model"]["vocab"]]
    known = {piece for piece, _ in pieces}
    first = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    answers = [(f"▁{answer}", -8.0) for answer in settings()["answers"] if f"▁{answer}" not in known]
    vocabulary = first + answers + [one for one in pieces if one[0] not in dict(first)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **shape)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def draw_pairs(count: int) -> tuple[Triples, list[str]]:
    """Queries with two passages each, and all passages."""
    passages, queries = python_docs()
    draw = np.random.default_rng(0)
    rows = draw.integers(0, len(passages), (count, 2))
    some = [queries[number] for number in draw.integers(0, len(queries), count)]
    return (some, [passages[i] for i, _ in rows], [passages[j] for _, j in rows]), passages


def ours(name: str) -> Callable[[Triples], np.ndarray]:
    """Both orders of a pair side by side, as the step `pair` asks."""
    judge = PairwisePrompt(name, max_length=LENGTH, precision="fp32", **settings())

    def score(triples: Triples) -> np.ndarray:
        queries, firsts, seconds = triples
        twice = [query for query in queries for _ in range(2)]
        left = [text for two in zip(firsts, seconds, strict=True) for text in two]
        right = [text for two in zip(seconds, firsts, strict=True) for text in two]
        return judge.score(twice, left, right).reshape(-1, 2)

    return score


def plain_loop(name: str) -> Callable[[int], Callable[[Triples], np.ndarray]]:
    """The loop that one writes, by batch size."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    given = settings()
    yes, no = (tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in given["answers"])

    @torch.inference_mode()
    def one_order(triples: Triples, size: int) -> list[float]:
        prompts = [given["template"].format(query=q, first=i, second=j) for q, i, j in zip(*triples, strict=True)]
        found: list[float] = []
        for start in range(0, len(prompts), size):
            batch = tokenizer(
                prompts[start : start + size], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            begun = torch.zeros((len(batch["input_ids"]), 1), dtype=torch.long)
            logits = model(**batch, decoder_input_ids=begun).logits[:, 0]
            found += (logits[:, yes] - logits[:, no]).tolist()
        return found

    def of_size(size: int) -> Callable[[Triples], np.ndarray]:
        def score(triples: Triples) -> np.ndarray:
            queries, firsts, seconds = triples
            return np.stack([one_order(triples, size), one_order((queries, seconds, firsts), size)], 1)

        return score

    return of_size


def seconds(score: Callable[[Triples], np.ndarray], triples: Triples) -> float:
    """How long all pairs take."""
    start = time.perf_counter()
    score(triples)
    return time.perf_counter() - start


def measure(name: str, triples: Triples, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search the loop's best batch size, alternate, compare what they say."""
    mine, of_size = ours(name), plain_loop(name)
    part: Triples = tuple(column[: arguments.searched] for column in triples)  # type: ignore[assignment]
    short: Triples = tuple(column[:4] for column in triples)  # type: ignore[assignment]
    for warm in (mine, of_size(4)):
        warm(short)
    taken = {size: seconds(of_size(size), part) for size in SIZES}
    best = min(taken, key=lambda size: taken[size])
    print(f"the loop's best batch size: {best}  " + ", ".join(f"{n}: {t:.1f} s" for n, t in taken.items()), flush=True)
    systems = {"ours": mine, "best": of_size(best), "usual": of_size(USUAL)}
    rates: dict[str, list[float]] = {system: [] for system in systems}
    count = 2 * len(triples[0])
    for number in range(arguments.rounds):
        for system, score in systems.items():
            rates[system].append(count / seconds(score, triples))
        print(f"  round {number + 1}: " + ", ".join(f"{n} {r[-1]:.1f}/s" for n, r in rates.items()), flush=True)
    uncut = difference(mine(part), of_size(best)(part))

    def ratio(other: str) -> float:
        return statistics.median(one / two for one, two in zip(rates["ours"], rates[other], strict=True))

    return {
        "rates": rates,
        "best_batch_size": best,
        "figures": {
            "speed_beside_the_best_batch_size": beside_bar("speed beside the best batch size", ratio("best"), BAR),
            "speed_beside_32": beside_bar(f"speed beside batches of {USUAL}", ratio("usual"), BAR),
            "median_difference": beside_bar("median difference of log-odds", uncut, 1e-4, more=False),
        },
    }


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Of most prompts: the few that are cut are cut in another place."""
    return float(np.median(np.abs(one - other)))


def main() -> int:
    """Measure, print each figure beside its bar, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and few pairs; no result file")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.rounds, arguments.searched, count = (1, 16, 48) if arguments.quick else (3, 64, 256)
    torch.set_num_threads(arguments.threads)
    about = machine("torch", "transformers", "tokenizers")
    triples, passages = draw_pairs(count)
    with tempfile.TemporaryDirectory() as temporary:
        fitted = passages[:500] if arguments.quick else passages
        name = build_model(Path(temporary), fitted, TINY if arguments.quick else SHAPES)
        result = measure(name, triples, arguments)
    setting = {"pairs": count, "orders": 2, "max_length": LENGTH, "threads": arguments.threads, "shape": SHAPES}
    if not arguments.quick:
        keep("pair_scoring", {"setting": setting, **result, "machine": about})
    held = all(row.get("held", True) for row in result["figures"].values())
    print("passed" if held else "FAILED")
    return 0 if held or arguments.quick else 1


if __name__ == "__main__":
    sys.exit(main())
