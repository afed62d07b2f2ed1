"""Pages that need no network and run no script: escaped text in a few tags, one style, a policy that forbids more."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

# No script runs and nothing is loaded, whatever a text might smuggle in.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def text(value: object) -> str:
    """Text as it stands, whatever is in it."""
    return html.escape(str(value))


def tag(name: str, *inside: str, **attributes: str) -> str:
    """An element around markup; ``cls`` is its class."""
    names = {key.rstrip("_").replace("cls", "class"): value for key, value in attributes.items() if value}
    said = "".join(f' {key}="{html.escape(value)}"' for key, value in names.items())
    return f"<{name}{said}>{''.join(inside)}</{name}>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], under: Mapping[int, str] | None = None) -> str:
    """A table of texts; what stands ``under`` a row, by its number, is markup over the whole width."""
    lines = []
    for number, row in enumerate(rows):
        lines.append(tag("tr", *(tag("td", text(cell)) for cell in row)))
        if under and under.get(number):
            lines.append(f'<tr class="under"><td colspan="{len(header)}">{under[number]}</td></tr>')
    head = tag("thead", tag("tr", *(tag("th", text(cell)) for cell in header)))
    return tag("div", tag("table", head, tag("tbody", "\n".join(lines))), cls="wide")


def details(summary: str, *inside: str, id_: str = "") -> str:
    """Markup that unfolds under a line of text."""
    return tag("details", tag("summary", text(summary)), *inside, id_=id_)


def code(lines: Iterable[str]) -> str:
    """Lines as they stand."""
    return tag("pre", text("\n".join(lines)))


def page(title: str, body: Iterable[str]) -> str:
    """A whole file."""
    return PAGE.format(title=text(title), policy=POLICY, style=STYLE, body="\n".join(body))


STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #666; --back: #f6f6f6; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #aaa; --back: #222; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 88rem; padding: 0 1.5rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { border-bottom: 2px solid; }
th:first-child, td:first-child, .texts th { text-align: left; }
.under td { border-bottom: 1px solid var(--line); padding: 0 .8rem .3rem; white-space: normal; }
.under details { width: 0; min-width: 100%; }
.under pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.texts td { text-align: left; white-space: normal; vertical-align: top; }
tr:has(+ .under) td { border-bottom: 0; }
p, li { max-width: 70rem; }
summary { cursor: pointer; color: var(--soft); }
pre { background: var(--back); padding: .8rem; overflow-x: auto; font-size: 12px; max-height: 40rem; }
figure { display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top; }
figcaption { font-size: 13px; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 10px system-ui, sans-serif; fill: currentColor; }
.key { display: inline-block; margin-right: 1rem; white-space: nowrap; font-size: 13px; }
.key i { display: inline-block; width: 1.4em; height: .3em; margin-right: .4em; vertical-align: middle; }
.passage { margin: .2rem 0; } .passage b { font-weight: 600; } .judged { color: #009E73; }
.soft { color: var(--soft); }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
<h1>{title}</h1>
{body}
</body></html>
"""
