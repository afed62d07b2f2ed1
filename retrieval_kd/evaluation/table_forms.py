"""A table's texts as markdown, LaTeX and HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retrieval_kd.evaluation import markup
from retrieval_kd.evaluation.tables import Shown, aligned

PUBLISHED = ["system", "cell", "value", "source"]

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def as_markdown(table: Shown) -> str:
    """The table for people, aligned so that it reads well as plain text too."""
    parts = [f"# {table.title}" if table.title else "", "", *aligned(table.header, table.cells), "", *table.notes, ""]
    if table.published:
        parts += ["## Published", "", *aligned(PUBLISHED, table.published), ""]
    if any(table.commands):
        parts += ["## Commands", "", "```"]
        for row, commands in zip(table.cells, table.commands, strict=True):
            parts += [f"# {row[0]}", *commands]
        parts += ["```", ""]
    return "\n".join(parts).lstrip()


def as_latex(table: Shown) -> str:
    """The table for a paper; it needs the package booktabs."""
    text = [*_tabular(table.header, table.cells)]
    if table.published:
        text += ["", "% published numbers", *_tabular(PUBLISHED, table.published)]
    text += ["", *(f"% {line}" for note in [table.title, *table.notes] for line in note.splitlines())]
    for row, commands in zip(table.cells, table.commands, strict=True):
        text += [f"% {row[0]}:", *(f"%   {command}" for command in commands)]
    return "\n".join([*text, ""])


def _tabular(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    def line(values: Sequence[str]) -> str:
        return " & ".join(map(latex, values)) + r" \\"

    columns = "l" + "r" * (len(header) - 1)
    body = [line(values) for values in cells]
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(header),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def latex(text: str) -> str:
    """Text as LaTeX sets it."""
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda found: SPECIAL[found[0]], text)


def as_html(table: Shown) -> str:
    """The table as a page of its own."""
    return markup.page(table.title, html_parts(table))


def html_parts(table: Shown) -> list[str]:
    """The table, each row over the commands that make it, and what else it says."""
    under = {
        number: markup.details("command" if len(commands) == 1 else "commands", markup.code(commands))
        for number, commands in enumerate(table.commands)
        if commands
    }
    parts = [markup.table(table.header, table.cells, under)]
    parts += [markup.tag("p", markup.text(note)) for note in table.notes]
    if table.published:
        parts += [markup.tag("h3", "Published"), markup.table(PUBLISHED, table.published)]
    return parts
