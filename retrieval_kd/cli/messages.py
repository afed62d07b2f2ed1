"""Log lines: this package's from INFO on, of other packages their warnings, without the known noise."""

from __future__ import annotations

import logging
import os
import sys
import warnings

NOISE = ("pytorch_lightning", "lightning", "transformers", "sentence_transformers", "hydra", "numba", "bm25s", "httpx")

# Advice of libraries that does not apply here: loaders of memory maps need no workers, steps log what they need.
IDLE_ADVICE = (
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
    r".*You are trying to.*infer the.*batch_size.*",
    r".*LeafSpec.*is deprecated.*",
    r".*treespec.*is deprecated.*",
)


def start_logging() -> None:
    """Send ``HH:MM:SS message`` lines to stderr; of several processes only the first tells more than warnings."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for message in IDLE_ADVICE:
        warnings.filterwarnings("ignore", message=message)
    for module in ("numba", "pytorch_lightning"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?$")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Lines)]:
        root.removeHandler(handler)
    root.addHandler(Lines())
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    logging.getLogger("retrieval_kd").setLevel(logging.INFO if first else logging.WARNING)


class Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """One line a record, on stderr."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.addFilter(wanted)


def wanted(record: logging.LogRecord) -> bool:
    """Libraries set the levels of their own loggers when they are imported, so levels alone do not keep them quiet."""
    package = record.name.partition(".")[0]
    if package == "retrieval_kd":
        return record.levelno >= logging.INFO
    return record.levelno >= (logging.ERROR if package in NOISE else logging.WARNING)
