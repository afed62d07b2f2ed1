"""What a plan costs before it runs: counts, encoder sizes, bytes; read from headers and records, never computed."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_kd.data.collections import Limit
from retrieval_kd.data.weights import MINILM, MINILM_PACKAGE

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan

COUNTING_SECONDS = 0.5  # for passages that no step has counted yet
SCORE_BYTES = 20  # a key of 16 bytes and the score
LINE_BYTES = 28  # a line of a run beside its ids
RUN_LINE_BYTES = 120  # a whole line of python_docs, whose ids are long
SAMPLED_IDS = 100
# Bytes that a BERT layer keeps for the backward pass, measured in fp32 and in bf16-mixed, which keeps fp32 copies:
# so many per token and hidden unit, and per token, head and token attended to.
KEPT_PER_UNIT, KEPT_PER_ATTENDED = 73, 12
STATE_BYTES = 16  # fp32 weight, gradient and the two moments of AdamW


@dataclass(frozen=True)
class EncoderSize:
    """An encoder as its folder's headers tell it; ``layers`` are those that are kept."""

    parameters: int
    dimension: int
    heads: int
    layers: int
    depth: int
    per_token: int = 0  # weights that each token is multiplied by, where they are not those of a BERT

    @property
    def multiplied(self) -> int:
        """Weights that each token is multiplied by: four attention matrices, and eight of feed-forward."""
        return self.per_token or 12 * self.layers * self.dimension**2

    def activations(self, texts: int, length: int) -> int:
        """Bytes kept for the backward pass of so many texts of full length."""
        per_token = KEPT_PER_UNIT * self.dimension + KEPT_PER_ATTENDED * self.heads * length
        return texts * length * self.layers * per_token


def stated(data: Mapping[str, Any], key: str) -> Any:
    """What a data option states of its collection's size (``counts``), for one that is not on this machine."""
    counts: Mapping[str, Any] = data.get("counts") or {}
    own = counts.get(str(data.get("name")))  # of an option that stands for many collections
    return (own if isinstance(own, Mapping) else counts).get(key)


def encoder_size(name: str, layers: int | None = None, path: str | None = None) -> EncoderSize | None:
    """Sizes of an encoder that is on this machine; None for one that would have to be fetched or made."""
    folder = folder_of(path or name)
    if folder is None or not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return None
    config = json.loads((folder / "config.json").read_text())
    dimension, depth = config.get("hidden_size"), config.get("num_hidden_layers")
    if not (isinstance(dimension, int) and isinstance(depth, int)):
        return None
    kept = min(layers or depth, depth)
    parameters = 0
    for file in folder.glob("*.safetensors"):
        for tensor, size in _tensor_sizes(file).items():
            block = re.search(r"\b(?:layers?|h)\.(\d+)\.", tensor)
            if "pooler." not in tensor and not (block and int(block[1]) >= kept):
                parameters += size
    return EncoderSize(parameters, dimension, config.get("num_attention_heads", 1), kept, depth)


def folder_of(name: str) -> Path | None:
    """Where a model's files are on this machine."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json")  # asks no network
    except ValueError:  # no name that a hub could have
        return None
    if isinstance(cached, str):
        return Path(cached).parent
    spec = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_")) if name == MINILM else None
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


def _tensor_sizes(file: Path) -> dict[str, int]:
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return {name: math.prod(value["shape"]) for name, value in header.items() if name != "__metadata__"}


def keeps_vectors(node: Mapping[str, Any]) -> bool:
    """Whether a scorer encodes texts rather than pairs."""
    return any(isinstance(part, ast.FunctionDef) and part.name == "encode" for part in _class_body(node))


def stores_scores(node: Mapping[str, Any]) -> bool:
    """Whether a scorer's scores go to the store."""
    return not any(ast.unparse(part).startswith("stored = False") for part in _class_body(node))


def asks_a_model(node: Mapping[str, Any]) -> bool:
    """Whether a judge reads texts: others compare scores, or have their pairs from a file."""
    return any(isinstance(part, ast.FunctionDef) and part.name == "score" for part in _class_body(node))


def compares_scores(node: Mapping[str, Any]) -> bool:
    """Whether a judge is a ``ScoreJudge``: what is read first means nothing to it."""
    return any(isinstance(part, ast.FunctionDef) and part.name == "prefer" for part in _class_body(node))


def _class_body(node: Mapping[str, Any]) -> list[ast.stmt]:
    """A scorer's class, read and not imported: that may take seconds."""
    module, _, name = str(node["_target_"]).rpartition(".")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return []
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return next((part.body for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name), [])


@dataclass(frozen=True)
class Counts:
    """How many queries, passages and candidates a plan works on; None where that is not known without work."""

    plan: Plan
    known: bool  # whether the collections can be read now

    def queries(self, entry: Entry | None) -> int | None:
        """Queries of a split."""
        if entry is None:
            return None
        limit = Limit.of(entry.data["limit"]).of_split(entry.split)
        if self.known:
            found: int | None = len(entry.source.queries(entry.split))
        else:
            found = (stated(entry.data, "queries") or {}).get(entry.split)
        return found if limit is None or found is None else min(limit, found)

    def passages(self, entry: Entry) -> int | None:
        """Passages of a collection, from a step's record or counted, if that is quick."""
        if not self.known:
            found, limit = stated(entry.data, "passages"), Limit.of(entry.data["limit"]).passages
            return found if limit is None or found is None else min(limit, found)
        for step in (self.plan.index(entry), self.plan.encoded(entry)):
            if step.done:
                return int(_recorded(step)["passages"])
        return self._counted(entry)

    def at_least(self, entry: Entry, seconds: float) -> int:
        """Passages that a collection has for certain: all, or as many as can be counted in some seconds."""
        known = self.passages(entry)
        return _count(entry, seconds)[0] if known is None else known

    def lines(self, entry: Entry | None, depth: int) -> int | None:
        """Lines of a run over a split."""
        queries = self.queries(entry)
        if entry is None or queries is None:
            return None
        passages = self.passages(entry)
        return queries * (depth if passages is None else min(depth, passages))

    def line_bytes(self, entry: Entry | None) -> float:
        """About what a line of a run takes, by the length of some ids."""
        if entry is None or not self.known:
            return RUN_LINE_BYTES
        passages = (passage.id for passage in entry.source.passages())
        return LINE_BYTES + _mean_length(entry.source.queries(entry.split)) + _mean_length(passages)

    def candidates(self, entry: Entry) -> tuple[int, int] | None:
        """Candidates and queries with a list, once they were mined."""
        mined = self.plan.candidates.listed(entry)
        if not self.known or not mined.done:
            return None
        record = _recorded(mined)
        return int(record["candidates"]), int(record["queries"])

    @cached_property
    def _seen(self) -> dict[str, int | None]:
        return {}

    def _counted(self, entry: Entry) -> int | None:
        if entry.passages_key not in self._seen:
            count, whole = _count(entry, COUNTING_SECONDS)
            self._seen[entry.passages_key] = count if whole else None
        return self._seen[entry.passages_key]


def _count(entry: Entry, seconds: float) -> tuple[int, bool]:
    """Passages counted in so many seconds, and whether these are all."""
    limit, stop = Limit.of(entry.data["limit"]).passages, time.perf_counter() + seconds
    count = 0
    for count, _ in enumerate(entry.source.passages(), 1):
        if count == limit:
            break
        if count % 1000 == 0 and time.perf_counter() > stop:
            return count, False
    return count, True


def _mean_length(ids: Iterable[str]) -> float:
    lengths = [len(name.encode()) for name in islice(ids, SAMPLED_IDS)]
    return sum(lengths) / max(1, len(lengths))


def _recorded(step: Step) -> dict[str, Any]:
    """What a finished step wrote down."""
    record: dict[str, Any] = step.record()
    return record


def representation(values: Mapping[str, Any], size: EncoderSize) -> tuple[str, int, str] | None:
    """What a student makes of a passage: its name, its bytes at most, and their product; None where nothing says."""
    student, times = values["student"], "\N{MULTIPLICATION SIGN}"
    kind = student.get("makes")
    if kind == "vectors":
        return "vectors", size.dimension * 4, f"{size.dimension} dimensions {times} 4 bytes"
    if kind == "tokens":
        length, dimensions = student["passage"]["max_length"], student["dimensions"]
        product = f"at most {length} tokens {times} {dimensions} dimensions {times} 4 bytes"
        return "token vectors", length * dimensions * 4, product
    terms = values["regularizer"].get("terms") or student.get("start_terms")
    return ("terms", terms * 8, f"about {terms} terms {times} 8 bytes") if kind == "terms" and terms else None


def optimizer_steps(trainer: Mapping[str, Any], queries: int) -> int:
    """Updates of the weights: whole batches only, the last ones of an epoch together even if they are fewer."""
    batches = queries // min(trainer["batch_size"], queries)
    steps = math.ceil(batches / trainer["accumulate"]) * trainer["epochs"]
    return min(steps, trainer["max_steps"] or steps)


def in_words(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
