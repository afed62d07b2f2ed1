"""Rules about how a training runs; ``compatibility`` asks them."""

from __future__ import annotations

from retrieval_kd.pipeline.rule_reading import Config, nodes, option


def rounds_can_be_counted(config: Config) -> str | None:
    """None of them is nothing to evaluate."""
    rounds = config["recipe"].get("rounds")
    return None if rounds is None or rounds >= 1 else f"recipe.rounds={rounds}: at least 1 is needed"


def files_teach_every_round(config: Config) -> str | None:
    """What a later round finds is new, and a file lists what it lists."""
    if (config["recipe"].get("rounds") or 1) < 2 or config["negatives"].get("source") != "student":
        return None
    for path, node in nodes(config.get("teacher"), "teacher"):
        if node.get("holds") == "pairs" or node.get("unlisted") == "refuse":
            fits = "" if node.get("holds") == "pairs" else f"{path}.unlisted=unscored, "
            return (
                f"recipe={option(config, 'recipe')} mines anew with each round's student, and {path} is a file"
                f" that may not list what is found then; {fits}a teacher that scores any text, or recipe=one_stage,"
                " would fit"
            )
    return None


def sweeps_run_one_process(config: Config) -> str | None:
    """Of jobs in one process: every child of DDP would start the whole sweep again, and draw numbers of its own."""
    if _processes(config) == 1 or "spawn" in str(config["trainer"].get("strategy")):
        return None
    return (
        f"-m with trainer.devices={config['trainer']['devices']} would start the whole sweep in every process;"
        " one fresh process per job would not: sweep.fresh=true, hydra/launcher=joblib or hydra/launcher=submitit_slurm"
    )


def batches_divide_over_processes(config: Config) -> str | None:
    """Each process takes an equal part of a batch."""
    size, processes = config["trainer"].get("batch_size"), _processes(config)
    if processes is None or not isinstance(size, int) or size % processes == 0:
        return None
    return (
        f"trainer.batch_size={size} does not divide by {processes} processes;"
        f" trainer.batch_size={max(size - size % processes, processes)} would fit"
    )


def _processes(config: Config) -> int | None:
    """How many processes train; None where only the machine can tell."""
    devices = config["trainer"].get("devices")
    if isinstance(devices, list):
        return len(devices)
    if devices == "auto" and config["trainer"].get("accelerator") == "cpu":
        return 1
    return devices if isinstance(devices, int) and devices > 0 else None
