"""What the verbs of single steps share."""

from __future__ import annotations

import json
from pathlib import Path

RECORD = "step.json"


def make(name: str, arguments: list[str], trains: bool | None = None) -> int:
    """Bring one step up to date; the code that its verb ends with."""
    bring(name, arguments, trains)
    return 0


def bring(name: str, arguments: list[str], trains: bool | None = None) -> list[Path]:
    """Bring one step up to date, and print where its artifacts are and what they hold."""
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose

    cfg = compose(arguments)
    check(cfg, trains)
    from retrieval_kd.cli.measures import print_measures
    from retrieval_kd.pipeline.run import step

    folders = step(cfg, name)
    for folder in folders:
        for line in contents(folder):
            print(line)
        print_measures(folder)
        print(folder)
    return folders


def contents(folder: Path) -> list[str]:
    """The files of an artifact with their sizes, and the figures of its record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    lines = [f"{path.relative_to(folder).as_posix()}  {_size(path.stat().st_size)}" for path in files]
    record = folder / RECORD
    if record.is_file():
        figures = json.loads(record.read_text(encoding="utf-8"))
        shown = [f"{key} {value}" for key, value in figures.items() if isinstance(value, int | float | str)]
        lines.append("  ".join(shown))
    return lines


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
