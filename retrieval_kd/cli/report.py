"""Write a page about a table or runs: tables, curves, scores by role, quality against cost, wins and losses, configs.

usage: retrieval-kd report TABLE|RUN [RUN …] [output=FILE]

One file that loads nothing and runs no script. TABLE is a table's name or its folder in outputs/tables; of several runs
the first is what the others are compared with.

  retrieval-kd report quickstart                    outputs/tables/quickstart/report.html
  retrieval-kd report outputs/train/4f1c… outputs/train/91ab… output=both.html
"""

from __future__ import annotations

from pathlib import Path

from retrieval_kd.contracts import UserError


def run(arguments: list[str]) -> int:
    """Write the page and print where it is."""
    said = [argument for argument in arguments if argument.startswith("output=")]
    folders = [Path(argument) for argument in arguments if argument not in said]
    wrong = [str(folder) for folder in folders if "=" in str(folder) and not folder.exists()]
    if wrong:
        raise UserError(f"{wrong[0]}: report takes folders and output=FILE")
    if not folders:
        raise UserError("report needs a table or folders of runs: retrieval-kd report quickstart")
    from retrieval_kd.pipeline.report import write_report

    print(write_report(folders, Path(said[-1].partition("=")[2]) if said else None))
    return 0
