"""Docstrings in source files, which are parsed and never imported, and their cleaning into a query and a passage."""

from __future__ import annotations

import ast
import gc
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

BLANK_LINE = re.compile(r"\n[ \t]*\n")
UNDERLINE = re.compile(r"^[ \t]*([-=~^*#+_.\"'`])\1{2,}[ \t]*$", re.MULTILINE)
PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?= |$)", re.MULTILINE)
TEMPLATE = re.compile(r"%\(\w+\)s")
QUOTE_MARKUP = re.compile(r"(?::\w[\w:+-]*:(?=`))?`+[~!]?")
PROSE_NAME = re.compile(r"[A-Z]?[a-z]*")
WORD_CHARACTER = re.compile(r"\w")
DOTTED = re.compile(r"(?:[\w.]*\.)?$")
QUOTES = tuple("`'\"")


def source_files(folder: Path) -> list[Path]:
    """Python files below ``folder`` in a fixed order, without tests."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"tests", "__pycache__"})
        found += [Path(place, file) for file in sorted(files) if file.endswith(".py")]
    return found


def docstrings(file: Path) -> dict[str, str]:
    """Docstring by dotted name of each class and function; of a getter and its setter, the first that has one."""
    source = file.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return {}
    # A syntax tree is many small objects without cycles to collect.
    collected = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            tree = ast.parse(source)
        found: dict[str, str] = {}
        for name, docstring in _documented(tree.body, ""):
            found.setdefault(name, docstring)
        return found
    except (SyntaxError, ValueError):
        log.warning("%s: not read, it is not Python of this version", file)
        return {}
    finally:
        if collected:
            gc.enable()


def _documented(body: Sequence[ast.AST], prefix: str) -> Iterator[tuple[str, str]]:
    """Statements only: walking every expression would take as long as parsing."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + statement.name
            docstring = ast.get_docstring(statement, clean=False)
            if docstring:
                yield name, docstring.encode(errors="replace").decode()  # no half of a surrogate pair
            yield from _documented(statement.body, f"{name}.")
        else:
            for part in ("body", "orelse", "handlers", "finalbody"):
                inner = getattr(statement, part, None)
                if isinstance(inner, list):
                    yield from _documented(inner, prefix)


def split_docstring(docstring: str, name: str) -> tuple[str, str]:
    """First paragraph and rest, cleaned, without the name of what they describe."""
    query, *rest = BLANK_LINE.split(inspect.cleandoc(docstring), maxsplit=1)
    return _cleaned(query, name), _cleaned("".join(rest), name)


def _cleaned(text: str, name: str) -> str:
    text = UNDERLINE.sub("", TEMPLATE.sub("", without_name(text, name)))
    return " ".join(QUOTE_MARKUP.sub("", PROMPT.sub("", text)).split())


def without_name(text: str, name: str) -> str:
    """Take an identifier and its dotted forms out of a text, so that matching is not looking up a name.

    A name that only code has (``fit_transform``, ``KMeans``) goes everywhere. One that is also a word goes where it
    is code: called, dotted, quoted or in a doctest line; "Return the mean of ..." keeps describing ``mean``.
    """
    word = PROSE_NAME.fullmatch(name) is not None
    kept, done, start = [], 0, text.find(name)
    while start >= 0:
        end = start + len(name)
        if not WORD_CHARACTER.match(text[start - 1 : start]) and not WORD_CHARACTER.match(text[end : end + 1]):
            begin = start - len(DOTTED.search(text, max(done, start - 200), start).group())  # type: ignore[union-attr]
            if begin < start or not word or _is_code(text, start, end):
                kept.append(text[done:begin])
                done = end
        start = text.find(name, end)
    return "".join([*kept, text[done:]])


def _is_code(text: str, start: int, end: int) -> bool:
    """Whether a word is called, quoted or in a doctest line."""
    before, after, line = text[start - 1 : start], text[end : end + 1], text[text.rfind("\n", 0, start) + 1 : start]
    return after == "(" or (before in QUOTES and after in QUOTES) or line.lstrip().startswith((">>>", "..."))
