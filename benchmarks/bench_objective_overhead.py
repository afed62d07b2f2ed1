"""What terms and filters add to a training step at equal forwarded passages: 16 queries x 8 passages, all-MiniLM-L6-v2.

    python benchmarks/bench_objective_overhead.py [--quick] [--threads 1] [--precision auto]

The step is that of bench_kd_step.py (everything between two batches), with contrastive and listwise KL. Beside it:

- passage_centric, in the paper's and in the released form, and filter=dynamic by the teacher: at most 5 % each;
- word_level with one and with three hard pairs for each query, by a cross-encoder of the same checkpoint: its cost is
  stated; it has no bar.

One process and one batch a round; in a round every variant takes two steps, of which the second counts, and is set
against the plain step of its own round. A step is timed in seconds of the processor, which others on the machine add
little to. The figure is the median over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from bench_kd_step import STUDENT_TEMPERATURE, How, Lists, Ours, draw_lists, kept, settings
from common import MINILM, apart, beside_bar

BAR = 1.05
PLAIN = "plain"
BARRED = ("passage_centric", "passage_centric_released", "filter_dynamic")
FREE = ("word_level_1", "word_level_3")


def part_of(name: str, teacher: Any) -> dict[str, Any]:
    """What a variant's training has beside the plain one's: a term, or a filter."""
    from retrieval_kd.filters.dynamic import Dynamic
    from retrieval_kd.objectives.passage_centric import PassageCentric
    from retrieval_kd.objectives.word_level import WordLevel

    if name == "filter_dynamic":
        keep = Dynamic(
            members={"teacher": "logit"},
            by="teacher",
            member=None,
            kind="probability",
            variant="ema_quantile",
            start=None,
            end=None,
            quantile=0.5,
            rate=0.1,
            share=0.95,
            margin=None,
        )
        return {"filter": keep}
    if name.startswith("passage_centric"):
        form = "released" if name.endswith("released") else "paper"
        return {"term": PassageCentric(STUDENT_TEMPERATURE, form, in_batch=True)}
    if name.startswith("word_level"):
        return {"term": WordLevel(lambda: teacher, int(name[-1]), "averaged", False, "cosine", STUDENT_TEMPERATURE)}
    return {}


class Variants(Ours):
    """One student that is trained in turns with what a variant has."""

    clock = staticmethod(time.process_time)

    def __init__(self, how: How, lists: Lists) -> None:
        super().__init__(how, lists)
        from retrieval_kd.data.weights import resolve_encoder
        from retrieval_kd.functional.ranking_losses import listwise_cross_entropy
        from retrieval_kd.teachers.cross_encoder import CrossEncoder

        name, precision = str(resolve_encoder(MINILM)), "bf16" if how.bf16 else "fp32"
        self.teacher = CrossEncoder(name, max_length=384, precision=precision, loss=listwise_cross_entropy)

    def seconds(self, name: str) -> float:
        """Of the second step."""
        from retrieval_kd.objectives.contrastive import Contrastive
        from retrieval_kd.objectives.weighted_sum import WeightedSum

        training, part = self.student.training_parts, part_of(name, self.teacher)
        terms = {"contrastive": Contrastive(STUDENT_TEMPERATURE, True), "kl": training.objective.terms["kl"]}
        if "term" in part:
            terms["more"] = part["term"]
        objective = WeightedSum(terms, dict.fromkeys(terms, 1.0))
        self.student.prepare(replace(training, objective=objective, filter=part.get("filter", self.none)))
        return self(2)[-1]

    @property
    def none(self) -> Any:
        """The filter of the plain step."""
        from retrieval_kd.filters.none import KeepAll

        return KeepAll()


def a_round(how: How, lists: Lists, names: tuple[str, ...]) -> dict[str, float]:
    """Seconds of every variant's step on one batch, the plain one first."""
    import torch

    torch.set_num_threads(how.threads)
    torch.manual_seed(0)
    variants = Variants(how, lists)
    variants.seconds(PLAIN)  # the first touches everything
    return {name: variants.seconds(name) for name in names}


def measured(batches: list[Lists], how: How) -> dict[str, Any]:
    """Every round in a process of its own; each variant's figure beside its bar."""
    names = (PLAIN, *BARRED, *FREE)
    rounds = []
    for number, lists in enumerate(batches):
        rounds.append(apart(a_round, how, lists, names))
        print(f"  round {number + 1}: " + ", ".join(f"{name} {rounds[-1][name]:.2f} s" for name in names), flush=True)
    figures = {"plain_seconds": beside_bar("plain step, s", statistics.median(one[PLAIN] for one in rounds))}
    for name in (*BARRED, *FREE):
        ratio = statistics.median(one[name] / one[PLAIN] for one in rounds)
        figures[name] = beside_bar(f"{name} against the plain step", ratio, BAR if name in BARRED else None, False)
    for name in FREE:
        more = statistics.median(one[name] - one[PLAIN] for one in rounds)
        figures[f"{name}_seconds"] = beside_bar(f"{name}, s more a step", more)
    return {"rounds": rounds, "figures": figures}


def main() -> int:
    """Measure, print, keep; 1 where a bar was missed."""
    arguments, setting, bf16 = settings(__doc__)
    how = How("ours", bf16, arguments.threads, 2)
    batches = draw_lists(arguments.rounds, arguments.queries, 8)
    return kept("objective_overhead", arguments, setting, lambda: measured(batches, how))


if __name__ == "__main__":
    sys.exit(main())
