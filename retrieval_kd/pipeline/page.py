"""A page of aligned text: blocks of rows, each with a label, what it says, and what stands behind it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

LABEL, TEXT = 10, 66
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass
class Page:
    """Collects rows and lays each block's columns out by its own widths."""

    _blocks: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)

    def title(self, text: str) -> None:
        """The first line."""
        self._blocks.append((text, []))

    def block(self, heading: str) -> None:
        """Begin a block."""
        self._blocks.append((heading, []))

    def row(self, label: str, text: str, behind: str = "") -> None:
        """Add a row to the last block; what is ``behind`` it breaks into lines at semicolons."""
        self._blocks[-1][1].append((label, text, behind))

    def text(self) -> str:
        """The page."""
        return "\n\n".join("\n".join([heading, *_rows(rows)]) for heading, rows in self._blocks)


def _rows(rows: list[tuple[str, str, str]]) -> list[str]:
    label_width = max([LABEL, *(len(label) for label, _, _ in rows)])
    wrapped = [textwrap.wrap(text, TEXT, subsequent_indent="  ") or [""] for _, text, _ in rows]
    width = max((len(line) for lines, row in zip(wrapped, rows, strict=True) for line in lines if row[2]), default=0)
    laid_out = []
    for (label, _, behind), lines in zip(rows, wrapped, strict=True):
        columns = zip_longest([label], lines, behind.split("; "), fillvalue="")
        laid_out += [f"  {left:<{label_width}} {line:<{width}}   {right}".rstrip() for left, line, right in columns]
    return laid_out


def number(value: Any) -> str:
    """A value as configurations write it, a function of ours by its name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith("retrieval_kd."):
        return value.rpartition(".")[2]
    return "[" + ", ".join(map(number, value)) + "]" if isinstance(value, list) else str(value)
