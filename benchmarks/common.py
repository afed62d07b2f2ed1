"""What the benchmarks share: texts, a process for each measurement, the machine, figures beside their bars."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def python_docs() -> tuple[list[str], list[str]]:
    """Passages and training queries of the embedded collection, as the config describes it."""
    import yaml

    from retrieval_kd.data.python_docs import PythonDocs

    settings = yaml.safe_load((ROOT / "conf" / "data" / "python_docs.yaml").read_text())["source"]
    source = PythonDocs(settings["packages"], ROOT / "outputs" / "store" / "python_docs")
    return [passage.text for passage in source.passages()], list(source.queries("train").values())


def apart(part: Callable[Arguments, Result], *positional: Arguments.args, **keywords: Arguments.kwargs) -> Result:
    """Run a part in a fresh process: nothing of an earlier part is in its memory, peak or allocator."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(part, *positional, **keywords).result()


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were measured on, and with which versions of ``packages``."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu[0].split(":")[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_before": os.getloadavg()[0],
        "system": platform.platform(),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _commit() -> str:
    """The commit that is measured, with a plus where package or benchmarks differ from it."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--", "retrieval_kd", "conf", "benchmarks/*.py")
    return commit + ("+" if changed else "")


def beside_bar(
    name: str, value: float, bar: float | None = None, more: bool = True, why_not: str = ""
) -> dict[str, Any]:
    """Print a figure, with its bar where it has one; ``why_not`` says that the bar cannot apply here."""
    row: dict[str, Any] = {"value": round(value, 6)}
    line = f"{name:46} {value:14,.4f}"
    if bar is not None:
        row |= {"bar": bar, "held": None if why_not else bool(value >= bar if more else value <= bar)}
        line += f"   bar {'>=' if more else '<='} {bar:,}   "
        line += f"does not apply: {why_not}" if why_not else "OK" if row["held"] else "FAIL"
    if why_not:
        row["does_not_apply"] = why_not
    print(line, flush=True)
    return row


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Write the result file."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
