"""``retrieval-kd VERB …``: finds the verb's module, runs it, and tells a user's mistake in one line."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from retrieval_kd.contracts import UserError

MULTIRUN = ("-m", "--multirun")
HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0, or 2 for a user's mistake, or 130 when interrupted."""
    from retrieval_kd.cli.messages import start_logging

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in HELP:
            return _general_help(arguments[1:])
        verb, rest = arguments[0], arguments[1:]
        run = find(verb)
        if any(argument in HELP for argument in rest):
            return _general_help([verb])
        start_logging()
        if any(argument in MULTIRUN for argument in rest):
            from retrieval_kd.cli.multirun import sweep

            return sweep(run, [argument for argument in rest if argument not in MULTIRUN])
        _refuse_sweep(rest)
        return run_once(run, rest)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished artifacts are kept, the same command goes on from them", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: `retrieval-kd explain | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _refuse_sweep(arguments: Sequence[str]) -> None:
    """What says how a sweep is run is nothing to a single run."""
    for argument in arguments:
        if argument.startswith(("sweep=", "sweep.", "hydra/launcher")):
            raise UserError(f"{argument} is about sweeps; add -m")


def run_once(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a verb; a tracker's run ends with it, however it ends, so that the next one does not join it."""
    try:
        return run(arguments)
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and hasattr(wandb, "finish"):
            wandb.finish()


def verbs() -> dict[str, str]:
    """Help texts by verb: the modules of this folder that define ``run``, which are read but not imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = ast.get_docstring(tree) or ""
    return found


def find(verb: str) -> Callable[[list[str]], int]:
    """The function behind a verb."""
    known = verbs()
    if verb not in known:
        from retrieval_kd.pipeline.conf_tree import did_you_mean

        raise UserError(f"{verb}: there is no such verb{did_you_mean(verb, known)} (one of {', '.join(known)})")
    run: Callable[[list[str]], int] = importlib.import_module(f"retrieval_kd.cli.{verb}").run
    return run


def _general_help(arguments: list[str]) -> int:
    from retrieval_kd.cli import guide

    known = verbs()
    if not arguments:
        print(guide.overview(known))
        return 0
    find(arguments[0])
    print(guide.verb_help(arguments[0], known[arguments[0]]))
    return 0
