"""A late-interaction step beside sentence-transformers': 16 queries x 8 passages each, listwise KL, six-layer MiniLM.

    python benchmarks/bench_late_interaction_step.py [--quick] [--threads 1] [--precision auto]

Both train on the same lists of python_docs texts (no passage is in two lists; passages are cut at 180 tokens, queries
are filled up to 32 with masks that nothing attends to), from one folder that both read: all-MiniLM-L6-v2 with a new
projection to 128 dimensions, BERT's unused tokens as markers, punctuation of passages skipped. Dropout on, fused AdamW,
gradients clipped at 1. A step is everything between two batches, as bench_kd_step.py says.

- Ours runs as in training: the batch maker, the training step and the optimizer under Lightning's trainer.
- Theirs is MultiVectorDistillKLDivLoss with its own data collator, in a plain loop: its trainer would only add to that.
  Two modes: the passage columns merged into one forward pass, its default, and one forward pass per column.

Every run is a process of its own: load, one step to warm up, then the timed step; a round has one run of each system,
another batch in every round. At first the loss of the same batch, dropout off, must be equal in all three.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_kd_step import SYSTEMS, Lists, Ours, Theirs, draw_lists, kept, measure, settings, timed
from bench_kd_step import How as Given
from common import MINILM, ROOT, apart

BARS = {"speed": 1.2, "memory": 1.0, "loss": 1e-4}


@dataclass(frozen=True)
class How(Given):
    """What a run is given beside its batch."""

    folder: str = ""


def make_folder(folder: str) -> None:
    """The start of both systems."""
    import yaml

    from retrieval_kd.interop.late_interaction import write
    from retrieval_kd.pipeline.build import METADATA
    from retrieval_kd.students.late_interaction import build_late_interaction

    option = yaml.safe_load((ROOT / "conf" / "student" / "late_interaction.yaml").read_text())
    given = {key: value for key, value in option.items() if key not in METADATA | {"_target_"}}
    write(build_late_interaction(**given | {"encoder": {"name": MINILM, "layers": None}}), Path(folder))


class OurLate(Ours):
    """The late-interaction student."""

    temperature = 1.0

    def built(self) -> Any:
        """As it starts."""
        from retrieval_kd.interop.late_interaction import read
        from retrieval_kd.students.student import Inference

        return read(Path(self.how.folder), Inference("bf16" if self.how.bf16 else "fp32", 1024))


class TheirLate(Theirs):
    """MultiVectorEncoder; its collator is told to mark queries and passages as its ``encode`` does."""

    temperature = 1.0

    def __init__(self, how: How, lists: Lists) -> None:
        super().__init__(how, lists)
        marker = {True: self.model.prompts["query"], False: self.model.prompts["document"]}
        self.collator.prompts = {column: marker[column == "query"] for column in self.columns}

    def built(self) -> tuple[Any, Any, Any]:
        """Model, and the classes of loss and collator."""
        from sentence_transformers import MultiVectorEncoder
        from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
        from sentence_transformers.multi_vector_encoder.losses import MultiVectorDistillKLDivLoss
        from transformers.utils import logging

        logging.set_verbosity_error()  # that there is no pooler is known
        logging.disable_progress_bar()
        model = MultiVectorEncoder(self.how.folder, device="cpu", local_files_only=True)
        return model, MultiVectorDistillKLDivLoss, MultiVectorEncoderDataCollator


def run(how: How, lists: Lists) -> dict[str, float]:
    """Time a system, or tell its loss."""
    return timed(OurLate if how.system == "ours" else TheirLate, how, lists)


def main() -> int:
    """Measure, print, keep; 1 where a bar that applies was missed."""
    arguments, setting, bf16 = settings(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        apart(make_folder, folder)
        how = {system: How(system, bf16, arguments.threads, 2, folder) for system in SYSTEMS}
        batches = draw_lists(arguments.rounds, arguments.queries, 8)
        return kept("late_interaction_step", arguments, setting, lambda: measure(batches, how, run, BARS))


if __name__ == "__main__":
    sys.exit(main())
