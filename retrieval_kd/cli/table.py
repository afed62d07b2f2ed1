"""Bring a table up to date and print it: row, measured, expected, OK / OKish / FAIL, significance against the control.

usage: retrieval-kd table NAME [scale=quick|small|paper] [only=ROW,…] [dry_run=true [teraflops=100]] [key=value] …

  retrieval-kd table quickstart                     what is done already is not run again
  retrieval-kd table quickstart only=BM25,teacher   some rows
  retrieval-kd table quickstart dry_run=true        what would run: calls, GPU-hours, disk, memory, and what is missing
NAME is a folder of experiments/, or a path to a folder with a table.yaml.
"""

from __future__ import annotations

import json

from retrieval_kd.contracts import UserError


def run(arguments: list[str]) -> int:
    """Print each row when it is ready, then the whole table; 1 when a row fails its expectation."""
    from retrieval_kd.pipeline.table import Request, bring

    if not arguments or "=" in arguments[0]:
        raise UserError("table needs a name: retrieval-kd table quickstart")
    bare = [argument for argument in arguments[1:] if "=" not in argument]
    if bare:
        raise UserError(f"table takes one name and key=value; {bare[0]!r} is neither")
    own = dict(argument.split("=", 1) for argument in arguments[1:] if argument.split("=", 1)[0] in OWN)
    rest = tuple(argument for argument in arguments[1:] if argument.split("=", 1)[0] not in OWN)
    if own.get("dry_run", "false").lower() not in ("true", "false"):
        raise UserError(f"dry_run={own['dry_run']}: it is true or false")
    request = Request(
        teraflops=_teraflops(own.get("teraflops")),
        name=arguments[0],
        scale=own.get("scale", "quick"),
        only=tuple(name.strip() for name in own.get("only", "").split(",") if name.strip()),
        dry_run=own.get("dry_run", "false").lower() == "true",
        overrides=rest,
    )
    folder = bring(request, lambda line: print(line, flush=True))
    if request.dry_run:
        return 0
    text = (folder / "table.md").read_text(encoding="utf-8").partition("\n## ")[0]
    print(
        f"\n{text}\n{folder}/table.md, also as .json, .tex and .html: with each row's command, and what was published"
    )
    rows = json.loads((folder / "table.json").read_text(encoding="utf-8"))["rows"]
    return 1 if any(cell["status"] == "FAIL" for row in rows for cell in row["cells"].values()) else 0


def _teraflops(said: str | None) -> float:
    from retrieval_kd.pipeline.dry_run import TERAFLOPS

    try:
        rate = TERAFLOPS if said is None else float(said)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UserError(f"teraflops={said}: a number above 0 is needed, what an accelerator sustains")
    return rate


OWN = ("scale", "only", "dry_run", "teraflops")
