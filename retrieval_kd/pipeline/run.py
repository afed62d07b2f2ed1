"""What the verbs do: bring a plan's results and lay them out in a run's folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file, atomic_folder, text_digest
from retrieval_kd.evaluation.per_query import join_per_query
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.plan import Plan

log = logging.getLogger(__name__)

METRICS = "metrics.json"
MANIFEST = "manifest.json"


def train(cfg: DictConfig) -> Path:
    """Run the recipe end to end and lay its results out; what the store already has is not computed again."""
    check(cfg)
    plan = Plan(cfg)
    if plan.values["target"] == "teacher":
        return _teacher_alone(plan)
    results = plan.results()
    folder = output_folder(cfg, plan, results)
    lay_out(folder, cfg, plan, results)
    return folder


def step(cfg: DictConfig, name: str) -> Path:
    """One step alone, with what it needs: on the training split for mine and score, else on what is evaluated."""
    check(cfg, trains=None if name == "evaluate" else False)
    plan = Plan(cfg)
    if name == "evaluate":
        for entry in plan.entries.evaluate:
            if not entry.judged:
                raise UserError(f"{entry.label} has no judgements to evaluate against; search alone writes the run")
        results = plan.results()
        folder = output_folder(cfg, plan, results)
        lay_out(folder, cfg, plan, results)
        return folder
    if name == "mine":
        return plan.mined(plan.train_entry).make()
    if name == "score":
        return plan.scored(plan.train_entry).make()
    made = [
        plan.encoded(entry).make() if name == "encode" else plan.run(entry).make() for entry in plan.entries.evaluate
    ]
    return made[-1]


def export(cfg: DictConfig) -> Path:
    """Write the student that ``model`` names as a folder for other libraries."""
    plan = Plan(cfg)
    folder = Path(plan.values["output_dir"])
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"output_dir={folder} is not an empty folder; name a new one")
    writer = get_method(plan.values["student"]["writer"])
    with atomic_folder(folder) as temporary:
        writer(plan.parts.student(None), temporary)
    return folder


def _teacher_alone(plan: Plan) -> Path:
    taught = plan.taught()
    if taught is None:
        raise UserError("target=teacher: no member of this teacher is trained here (scorer=cross_encoder is)")
    return taught.make()


def results_key(results: list[Step]) -> str:
    """What names a run: the digests of its results."""
    return text_digest(*(step.key for step in results))


def output_folder(cfg: DictConfig, plan: Plan, results: list[Step]) -> Path:
    """``output_dir``, or a folder named by what decides the result; another config's folder is refused."""
    key = results_key(results)
    if cfg.output_dir is None:
        return Path("outputs") / (plan.values["name"] or "train") / key[:12]
    folder = Path(cfg.output_dir)
    manifest = folder / MANIFEST
    if manifest.exists():
        other = json.loads(manifest.read_text()).get("key")
        if other != key:
            raise UserError(
                f"output_dir={folder} holds the results of another config ({MANIFEST}); name another folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output_dir={folder} holds files that no run of ours wrote; name a new or empty folder")
    return folder


def lay_out(folder: Path, cfg: DictConfig, plan: Plan, results: list[Step]) -> None:
    """Make the results and put model, runs, measures and the record of how they came about into ``folder``."""
    for step in results:  # all of them before the first file: a run that fails leaves no part of a folder
        step.make()
    if (folder / MANIFEST).exists():
        _fill(folder, cfg, plan, results)
        return
    with atomic_folder(folder) as temporary:
        _fill(temporary, cfg, plan, results)


def _fill(folder: Path, cfg: DictConfig, plan: Plan, results: list[Step]) -> None:
    collections: dict[str, Any] = {}
    judged: dict[tuple[str, str], Path] = {}
    for entry, step in zip(plan.entries.evaluate, results, strict=True):
        run = plan.run(entry).make() / "run.trec"
        _link(run, folder / "runs" / f"{entry.name}.{entry.split}.trec")
        if entry.judged:
            collections[entry.label] = json.loads((step.make() / METRICS).read_text())
            judged[entry.name, entry.split] = step.make() / "per_query.parquet"
        else:
            log.warning("%s has no judgements: the run is there, measures are not", entry.label)
            collections[entry.label] = {"queries": len(entry.collection.queries), "measures": {}}
    used = {step.key for result in results for step in result.walk()}
    if plan.trained is not None and plan.trained.key in used:
        _link(plan.trained.make() / "model", folder / "model")
        _link(plan.trained.make() / "log.csv", folder / "log.csv")
    join_per_query(judged, folder / "per_query.parquet")
    with atomic_file(folder / "resolved.yaml") as path:
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(plan.values)))
    with atomic_file(folder / METRICS) as path:
        path.write_text(json.dumps({"collections": collections, "cost": costs(plan, results)}, indent=1) + "\n")
    with atomic_file(folder / MANIFEST) as path:  # last: it says that the folder is complete
        path.write_text(json.dumps(manifest(plan, results), indent=1) + "\n")


def costs(plan: Plan, results: list[Step]) -> dict[str, Any]:
    """What the result cost, from the records of the steps."""
    steps = {step.key: step for result in results for step in result.walk()}
    records: dict[str, list[dict[str, Any]]] = {}
    for step in steps.values():
        records.setdefault(step.name, []).append(step.record())
    cost: dict[str, Any] = {"seconds": round(sum(record["seconds"] for made in records.values() for record in made), 1)}
    for name, key in {"train_seconds": "train_seconds", "train_steps": "steps", "train_passages": "passages"}.items():
        if "train" in records:  # of all stages
            cost[name] = round(sum(record[key] for record in records["train"]), 3)
    if "encode" in records:
        cost["encode_passages_per_second"] = records["encode"][-1]["passages_per_second"]
    holder = "index" if plan.values["engine"]["holds"] != "representations" else "encode"
    if holder in records:
        cost["index_bytes"] = records[holder][-1]["bytes"]
    return cost


def manifest(plan: Plan, results: list[Step]) -> dict[str, Any]:
    """How the result came about."""
    steps = {step.key: step for result in results for step in result.walk()}
    trained = plan.trained is not None and plan.trained.key in steps
    inputs = [*([plan.train_entry] if trained else []), *plan.entries.evaluate]
    made = max((step.record() for step in steps.values()), key=lambda record: record["seconds"])  # where the work was
    return {
        "key": results_key(results),
        **made["environment"],
        "seed": plan.values["seed"],
        "inputs": {entry.label: entry.key for entry in inputs},
        "steps": [
            {
                "step": step.name,
                "digest": step.key,
                "seconds": step.record()["seconds"],
                "commit": step.record()["environment"]["commit"],
            }
            for step in steps.values()
        ],
        "overrides": plan.values["overrides"],
    }


def _link(source: Path, target: Path) -> None:
    """The same content at ``target``, without a second copy where the file system can."""
    if not source.exists():
        return
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    """Weights are shared with the store; small files are copied, for somebody may edit them."""
    try:
        if Path(source).suffix != ".safetensors":
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
