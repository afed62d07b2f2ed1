"""What the verbs do: bring a plan's results and lay them out in a run's folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file, atomic_folder, text_digest
from retrieval_kd.evaluation.curves import draw_training
from retrieval_kd.evaluation.means import with_means
from retrieval_kd.evaluation.per_query import join_per_query
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.beforehand import Work, check_lists, planned
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.entries import means
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.rounds import laid_out, tell, with_rounds
from retrieval_kd.pipeline.tracking import tracked

if TYPE_CHECKING:
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)

METRICS = "metrics.json"
MANIFEST = "manifest.json"
OF_SEARCH = (
    "index_bytes",  # of an engine that builds an index of its own
    "flops",
    "passage_terms_mean",
    "passage_terms_median",
    "query_terms_mean",
    "query_terms_median",
    "recall_of_exact",
)


def train(cfg: DictConfig) -> Path:
    """Run the recipe end to end and lay its results out; what the store already has is not computed again."""
    check(cfg)
    plan = Plan(cfg)
    if plan.values["target"] == "teacher":
        return _teacher_alone(plan)
    return _whole(plan)


def step(cfg: DictConfig, name: str) -> list[Path]:
    """One step alone, with what it needs: on the training split for what is about lists, else on what is evaluated.

    Returns where its artifacts lie: in the store, or below ``output_dir``, one folder for each collection.
    """
    check(cfg, trains=None if name == "evaluate" else False)
    plan = Plan(cfg)
    if name == "evaluate":
        for entry in plan.entries.evaluate:
            if not entry.measured:
                raise UserError(f"{entry.label} has no judgements to evaluate against; search alone writes the run")
        return [_whole(plan)]
    lists = plan.candidates
    of_lists = {
        "mine": lists.mined,
        "darken": lists.darkened,
        "score": lists.scored,
        "label": lists.labelled,
        "pair": plan.pairing.paired,
    }
    if name in of_lists:
        check_lists(plan)
        made = of_lists[name]
        return _artifacts(plan, plan.train_entries, [made(entry) for entry in plan.train_entries])
    entries = plan.entries.evaluate
    made = plan.encoded if name == "encode" else plan.run
    return _artifacts(plan, entries, [made(entry) for entry in entries], evaluated=entries)


def finished(cfg: DictConfig) -> Path | None:
    """The folder of a run whose results are all in it; None if there is something to do."""
    plan = Plan(cfg)
    if plan.values["target"] == "teacher":
        return None
    results = planned(plan)
    folder = output_folder(plan, results)
    return folder if holds(folder, results) else None


def _whole(plan: Plan) -> Path:
    results = planned(plan)
    folder = output_folder(plan, results)
    lay_out(folder, plan, results)
    return folder


def export(cfg: DictConfig, form: str | None = None) -> Path:
    """Write the student that ``model`` names as a folder for other libraries: our own form, or ``form``."""
    plan = Plan(cfg)
    folder = _new_folder(plan)
    from retrieval_kd.interop.model_folder import write_again  # here: planning does without torch

    with atomic_folder(folder) as temporary:
        write_again(plan.parts.student(None), temporary, form)
    return folder


def export_opensearch(
    cfg: DictConfig, index: str | None = None, question: str | None = None, fields: Sequence[str] | None = None
) -> Path:
    """Write what an OpenSearch cluster is fed with: the student's tables, and the passages of what is evaluated.

    Args:
        cfg: Names the student and the collection.
        index: Name of the index; the collection's where it is not said.
        question: Text of the example query; the split's first where it is not said.
        fields: ``rank_features``, ``sparse_vector`` or both.
    """
    from retrieval_kd.data.representations import StoredRepresentations
    from retrieval_kd.interop.opensearch import stored_chunks, write_bundle
    from retrieval_kd.interop.opensearch_requests import RANK_FEATURES
    from retrieval_kd.students.sparse_encoder import SparseEncoder

    plan = Plan(cfg)
    folder = _new_folder(plan)
    entry = plan.entries.evaluate[0]
    student = plan.asked(entry)
    if not isinstance(student, SparseEncoder):
        raise UserError("format=opensearch is for sparse students, and this one is not; leave the format out")
    stored = StoredRepresentations.open(plan.encoded(entry).make() / "passages")
    with atomic_folder(folder) as temporary:
        write_bundle(
            student,
            temporary,
            index or entry.name.lower(),
            stored_chunks(entry.collection.passages, stored.arrays),
            question or next(iter(entry.collection.queries.values())),
            fields or (RANK_FEATURES,),
        )
    return folder


def _new_folder(plan: Plan) -> Path:
    folder = Path(plan.values["output_dir"])
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"output_dir={folder} is not an empty folder; name a new one")
    return folder


def _teacher_alone(plan: Plan) -> Path:
    check_lists(plan)
    taught = plan.pairing.trainings()
    if not taught:
        raise UserError("target=teacher: no member of this teacher is trained here (scorer=cross_encoder is)")
    for step in taught[:-1]:
        step.make()
    return _artifacts(plan, plan.train_entries[:1], taught[-1:])[0]  # of the judge, where there is one


def _artifacts(
    plan: Plan, entries: Sequence[Entry], made: Sequence[Step], evaluated: Sequence[Entry] = ()
) -> list[Path]:
    """Make a step for each entry; where an ``output_dir`` is named, its files are put there too."""
    folder = None if plan.values["output_dir"] is None else output_folder(plan, made)
    Work(plan, made, evaluated, folder).check()
    for one in made:
        one.make()
    if folder is None:
        return list(dict.fromkeys(one.path for one in made))  # splits of a collection share what is about passages
    names = [f"{entry.name}.{entry.split}" if len(entries) > 1 else "" for entry in entries]
    with _opened(folder) as opened:
        for name, one in zip(names, made, strict=True):
            for path in sorted(one.path.iterdir()):
                _link(path, opened / name / path.name)
        _write_manifest(opened, plan, made, entries)
    return [folder / name for name in names]


def results_key(results: Sequence[Step]) -> str:
    """What names a run: the digests of its results."""
    return text_digest(*(step.key for step in results))


def output_folder(plan: Plan, results: Sequence[Step]) -> Path:
    """``output_dir``, or a folder named by what decides the result; another config's folder is refused."""
    key = results_key(results)
    if plan.values["output_dir"] is None:
        return Path("outputs") / (plan.values["name"] or "train") / key[:12]
    folder = Path(plan.values["output_dir"])
    manifest = folder / MANIFEST
    if manifest.exists():
        other = json.loads(manifest.read_text()).get("key")
        if other != key:
            raise UserError(
                f"output_dir={folder} holds the results of another config or command ({MANIFEST}); name another folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output_dir={folder} holds files that no run of ours wrote; name a new or empty folder")
    return folder


def lay_out(folder: Path, plan: Plan, results: Sequence[Step]) -> None:
    """Make the results and put model, runs, measures and the record of how they came about into ``folder``.

    What another configuration left there stays until all of this is complete, and gives way then.
    """
    wanted = with_rounds(plan, results)
    work = Work(plan, wanted, plan.entries.evaluate, folder)
    work.check()
    with tracked(plan, folder, results_key(results)) if work.missing or not holds(folder, results) else nullcontext():
        for step in wanted:  # all of them before the first file: a run that fails leaves no part of a folder
            step.make()
        other = folder.is_dir() and any(folder.iterdir()) and not holds(folder, results)
        with _replaced(folder) if other else _opened(folder) as opened:
            _fill(opened, plan, results)


def holds(folder: Path, results: Sequence[Step]) -> bool:
    """Whether a folder is that of these results, and complete."""
    manifest = folder / MANIFEST
    return manifest.exists() and bool(json.loads(manifest.read_text()).get("key") == results_key(results))


def _opened(folder: Path) -> AbstractContextManager[Path]:
    """Where a run's files are put: a folder that appears when it is complete, or the one that is there already."""
    return nullcontext(folder) if (folder / MANIFEST).exists() else atomic_folder(folder)


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of another when the block succeeds; nothing is lost if it fails."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True) as aside:
        new, old = Path(aside) / "new", Path(aside) / "old"
        with atomic_folder(new) as temporary:
            yield temporary
        os.replace(folder, old)
        try:
            os.replace(new, folder)
        except BaseException:
            os.replace(old, folder)
            raise


def _fill(folder: Path, plan: Plan, results: Sequence[Step]) -> None:
    collections: dict[str, Any] = {}
    judged: dict[tuple[str, str], Path] = {}
    for entry, step in zip(plan.entries.evaluate, results, strict=True):
        run = plan.run(entry).make() / "run.trec"
        _link(run, folder / "runs" / f"{entry.name}.{entry.split}.trec")
        if entry.measured:
            collections[entry.label] = json.loads((step.make() / METRICS).read_text())
            judged[entry.name, entry.split] = step.make() / "per_query.parquet"
        else:
            log.warning("%s has no judgements: the run is there, measures are not", entry.label)
            collections[entry.label] = {"queries": len(entry.collection.queries), "measures": {}}
    of_means = means(plan.entries.evaluate)
    labels = {"/".join(names): ["/".join(part) for part in parts] for names, parts in of_means.items()}
    found: dict[str, Any] = {"collections": with_means(collections, labels)}
    if told := laid_out(plan):
        found["rounds"] = told
        tell(told)
    trains = any(step.name == "train" for result in results for step in result.walk())
    if trains and plan.trained is not None:
        _link(plan.trained.make() / "model", folder / "model")
        _lay_out_logs(folder, plan.trained, plan.trainings)
    join_per_query(judged, folder / "per_query.parquet", of_means)
    with atomic_file(folder / "resolved.yaml") as path:
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(plan.values)))
    with atomic_file(folder / METRICS) as path:
        path.write_text(json.dumps(found | {"cost": costs(plan, results)}, indent=1) + "\n")
    _write_manifest(folder, plan, results, plan.entries.evaluate)


def _lay_out_logs(folder: Path, last: Step, trainings: Mapping[str, Step]) -> None:
    """Log and curves of the last training; of several, those of each in a folder of its stage too."""
    places = {folder: last}
    if len(trainings) > 1:
        places |= {folder / "stages" / name: training for name, training in trainings.items()}
    for place, training in places.items():
        _link(training.make() / "log.csv", place / "log.csv")
        draw_training(place / "log.csv", place)


def _write_manifest(folder: Path, plan: Plan, results: Sequence[Step], entries: Sequence[Entry]) -> None:
    """Write how the results came about; last, for it says that the folder is complete."""
    with atomic_file(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest(plan, results, entries), indent=1) + "\n")


def costs(plan: Plan, results: Sequence[Step]) -> dict[str, Any]:
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
    searched = plan.run(plan.entries.evaluate[0]).record()
    cost |= {name: searched[name] for name in OF_SEARCH if name in searched}
    for timed in records.get("time", ())[:1]:  # of the first collection
        cost |= timed["latency"] | {"timed_on": timed["environment"]["hardware"]}
    return cost


def manifest(plan: Plan, results: Sequence[Step], entries: Sequence[Entry]) -> dict[str, Any]:
    """How results about some collections came about."""
    steps = {step.key: step for result in results for step in result.walk()}
    trains = any(step.name == "train" for step in steps.values())
    inputs = [*(plan.train_entries if trains else []), *entries]
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
