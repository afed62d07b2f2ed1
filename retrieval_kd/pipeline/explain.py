"""What ``train`` would do, told before anything is done: the formula, where its numbers are from, steps and costs.

Nothing heavy is imported and no artifact is made; what only work could tell is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.asked import Asked
from retrieval_kd.pipeline.build import METADATA
from retrieval_kd.pipeline.costs import add_costs
from retrieval_kd.pipeline.entries import absent
from retrieval_kd.pipeline.estimates import Counts, encoder_size, in_words, optimizer_steps
from retrieval_kd.pipeline.origins import Origins
from retrieval_kd.pipeline.page import Page, number
from retrieval_kd.pipeline.plan import NO_RESULT, Plan
from retrieval_kd.pipeline.provenance import notes
from retrieval_kd.pipeline.recipes import named_overrides, stages
from retrieval_kd.pipeline.rounds import with_rounds
from retrieval_kd.pipeline.unread import without_reading

OF_VALIDATION = ("validation_queries", "patience", "select")
HIDDEN = METADATA - {"made", "train", "refit"}
SPEED_ONLY = ("tokens_per_batch", "fused")


def explain(cfg: DictConfig) -> str:
    """The whole explanation as text."""
    read = not (missing := absent(cfg))
    plan = Plan(cfg if read else without_reading(cfg))
    counts, origins, page = Counts(plan, read), Origins(cfg), Page()
    steps = _steps(plan)
    page.title(f"{plan.values['name']}: what `retrieval-kd train` would do; nothing is computed")
    _add_data(page, plan, counts, origins)
    _add_absent(page, missing)
    if plan.values["target"] == "teacher":
        page.block("Training of the teacher alone")
        _add_teachers(page, [Asked("teacher", plan.candidates)], origins)
        _add_negatives(page, plan, origins)
    staged = list(_stages(plan, origins)) if plan.trained is not None else []
    for name, stage, its_origins in staged if plan.values["target"] != "teacher" else ():
        _add_stage(page, name, stage, counts, its_origins)
    _add_search(page, plan, steps, origins)
    _add_steps(page, plan, steps, read)
    if plan.values["target"] != "teacher":
        add_costs(page, plan, {name: stage for name, stage, _ in staged}, counts)
    return page.text()


# ---- blocks


def _add_data(page: Page, plan: Plan, counts: Counts, origins: Origins) -> None:
    entries = plan.entries
    keys = {key: f"data.{key}" for key in ("split",)}
    limits = {f"limit.{key}": f"data.limit.{key}" for key in plan.values["data"]["limit"] or {}}
    trains = plan.trained is not None or plan.values["target"] == "teacher"
    learned = entries.train if trains else ()
    parts = [f"trains on {entry.label}{_many(counts.queries(entry))}" for entry in learned]
    parts += [f"evaluates {entry.label}{_many(counts.queries(entry))}" for entry in entries.evaluate]
    page.block("Data")
    page.row("data", ", ".join(parts), origins.summary(keys))
    given = {short: plan.values["data"]["limit"][short.partition(".")[2]] for short in limits}
    if any(value is not None for value in given.values()):
        page.row("", _listed(given), origins.summary(limits))


def _add_absent(page: Page, missing: Iterable[Any]) -> None:
    """What is still to be read or fetched."""
    files: dict[str, int | None] = {}
    names: dict[str, list[str]] = {}
    for name, source in {source.name: source for source in missing}.items():
        wanted = source.missing() if hasattr(source, "missing") else ()
        files |= {file.place: file.size for file in wanted}
        names.setdefault("fetched" if wanted else "parsed", []).append(name)
    about = "until a command does so, once, counts and what of the steps is done are not known"
    for done, some in names.items():
        page.row("", f"{', '.join(some)} {'was' if len(some) == 1 else 'were'} not {done} yet: {about}")
    for place, size in files.items():
        page.row("to fetch", place if size is None else f"{place} ({in_words(size)})")


def _add_stage(page: Page, name: str, plan: Plan, counts: Counts, origins: Origins) -> None:
    page.block(f"Training, stage {name}" if name else "Training")
    _add_loss(page, plan, origins)
    _add_student(page, plan, origins)
    main = [Asked("teacher", plan.candidates)]
    if not plan.parts.needs_scores and plan.values["negatives"].get("margin") is None:
        page.row("teacher", "not asked: no term needs its scores")
        main = []
    _add_teachers(page, [*main, *(one for one in plan.teachers if one.term)], origins)
    if plan.parts.needs_preferences:
        _add_judge(page, plan, origins)
    _add_negatives(page, plan, origins)
    _add_trainer(page, plan, counts, origins)
    for path, note in notes(plan.values):
        page.row("note", f"{path}: {note}")


def _add_loss(page: Page, plan: Plan, origins: Origins) -> None:
    sign = "  "
    for name, node in plan.values["objective"].items():
        settings, keys = _settings(node, f"objective.{name}")
        keys = {"weight": f"objective.{name}.weight", **keys}
        settings |= {"of": "a teacher of its own"} if name in plan.parts.own_teachers else {}
        label = "loss" if sign == "  " else ""
        page.row(label, f"{sign}{node['weight']} · {_call(name, settings)}", origins.summary(keys))
        sign = "+ "
    options, none = plan.values["options"], []
    for group in ("regularizer", "pacing", "filter"):
        settings, keys = _settings(plan.values[group], group)
        if options[group] == "none":
            none.append(group)
        elif group == "regularizer":
            page.row("", f"+ {_call(options[group], settings)}", origins.summary(keys))
        else:
            page.row(group, _call(options[group], settings), origins.summary(keys))
    if none:
        page.row("", f"no {', no '.join(none)}")


def _add_student(page: Page, plan: Plan, origins: Origins) -> None:
    if plan.values["model"]:
        page.row("student", plan.values["model"], origins.of("model"))
        return
    values = plan.values
    node = {key: value for key, value in values["student"].items() if key not in ("encoder", *NO_RESULT["student"])}
    settings, keys = _settings(node, "student")
    page.row("student", _call(values["options"]["student"], settings), origins.summary(keys))
    encoder = values["encoder"]
    size = encoder_size(**encoder)
    layers = encoder["layers"] or (size.depth if size else "all")
    about = (
        f", {layers} of {size.depth} layers, {size.parameters / 1e6:.1f} M weights" if size else f", layers {layers}"
    )
    used = {key: f"encoder.{key}" for key, value in encoder.items() if value is not None}
    page.row("encoder", f"{encoder['name']}{about}", origins.summary(used))


def _add_teachers(page: Page, teachers: Iterable[Asked], origins: Origins) -> None:
    """Teachers, and behind each those whose scores its members learn from first."""
    said: list[Asked] = []
    for one in teachers:
        _add_teacher(page, one, origins, "teacher" if one.term is None else f"of {one.term}")
        said.append(one)
        _add_bases(page, one, said, origins)


def _add_bases(page: Page, one: Asked, said: list[Asked], origins: Origins) -> None:
    for base in one.bases:
        before = next((other for other in said if other.node == base.node), None)
        page.row("", f"learns from the scores of {before.key if before else base.key}{'' if before else ':'}")
        if before is None:
            _add_teacher(page, base, origins, "")
            said.append(base)
            _add_bases(page, base, said, origins)


def _add_teacher(page: Page, one: Asked, origins: Origins, label: str) -> None:
    plan = one.steps.plan
    teacher, options = plan.parts.score_teacher, plan.values["options"]
    prefix = f"{one.key}.base" if "base" in plan.values["teacher"] else one.key
    place = "teacher" if prefix == "teacher" else f"teacher@{prefix}"
    name = options.get(place) or str(teacher["_target_"]).rpartition(".")[2]
    members = {f"members.{name}": node for name, node in teacher.get("members", {}).items()}
    if "scorer" in teacher:
        members["scorer"] = teacher["scorer"]
    own = {key: value for key, value in teacher.items() if key not in ("members", "scorer")}
    settings, keys = _settings(own, prefix)
    names = ", ".join(path.removeprefix("members.") for path in members)
    text = _call(str(name), settings)
    page.row(label, f"{text} of {names}" if "members" in teacher else text, origins.summary(keys))
    for path, node in members.items():
        settings, keys = _settings(node, f"{prefix}.{path}")
        option = options.get(f"scorer@{prefix}.{path}") or str(node["_target_"]).rpartition(".")[2]
        name = path.removeprefix("members.")
        page.row("", f"{name}: " * (name != option) + _call(option, settings), origins.summary(keys))


def _add_judge(page: Page, plan: Plan, origins: Origins) -> None:
    """Who judges pairs, and which."""
    node, options = plan.parts.judge, plan.values["options"]
    settings, keys = _settings(node, "teacher.judge")
    keys = {"orders": "teacher.orders", **keys}
    text = _call(str(options.get("judge@teacher.judge")), settings)
    page.row("judge", f"{text}, orders {plan.values['teacher']['orders']}", origins.summary(keys))
    settings, keys = _settings({key: value for key, value in plan.values["pairs"].items() if key != "seed"}, "pairs")
    page.row("pairs", _call(options["pairs"], settings), origins.summary(keys))


def _add_negatives(page: Page, plan: Plan, origins: Origins) -> None:
    node, option = plan.values["negatives"], plan.values["options"]["negatives"]
    settings, keys = _settings({key: value for key, value in node.items() if key != "seed"}, "negatives")
    flow = [("source", "{}"), ("window", "ranks {}"), ("pool", "a pool of {}"), ("per_query", "{} drawn each epoch")]
    told = [form.format(_span(settings.pop(key))) for key, form in flow if key in settings]
    more = f" ({_listed(settings)})" if settings else ""
    page.row("negatives", f"{option}: {' → '.join(told)}{more}", origins.summary(keys))
    if plan.parts.labels_by_teacher:
        settings, keys = _settings(plan.values["labels"], "labels")
        page.row("labels", _call(plan.values["options"]["labels"], settings), origins.summary(keys))


def _add_trainer(page: Page, plan: Plan, counts: Counts, origins: Origins) -> None:
    trainer = plan.values["trainer"]
    left_out = {*NO_RESULT["trainer"], *(OF_VALIDATION if trainer["validate_every"] is None else ())}
    settings, keys = _settings({key: value for key, value in trainer.items() if key not in left_out}, "trainer")
    page.row("trainer", _listed(settings), origins.summary(keys))
    settings, keys = _settings(plan.values["optimizer"], "optimizer")
    name = str(plan.values["optimizer"]["_target_"]).rpartition(".")[2]
    page.row("optimizer", _call(name, settings), origins.summary(keys))
    page.row("seed", str(plan.values["seed"]), origins.of("seed"))
    sizes = [mined[1] if (mined := counts.candidates(one)) else counts.queries(one) for one in plan.train_entries]
    queries = sum(size for size in sizes if size is not None) if None not in sizes else None
    if queries:
        steps = optimizer_steps(trainer, queries)
        epochs = optimizer_steps({**trainer, "max_steps": None}, queries)
        bound = f" (max_steps; the epochs have {epochs:,})" if steps < epochs else ""
        page.row("updates", f"{steps:,}{bound}, of {queries:,} queries in batches of {trainer['batch_size']}")


def _add_search(page: Page, plan: Plan, steps: list[Step], origins: Origins) -> None:
    page.block("Search and measures")
    if any(step.name == "index" for step in steps):
        settings, keys = _settings(plan.values["bm25"], "bm25")
        page.row("bm25", _listed(settings), origins.summary(keys))
    if plan.values["target"] == "teacher":
        return
    if plan.trained is None:
        page.row("training", "none", origins.of("model" if plan.values["model"] else "recipe.stages"))
        if plan.values["engine"]["holds"] == "scores":
            _add_teachers(page, [Asked("teacher", plan.candidates)], origins)
        elif plan.values["engine"]["holds"] == "representations":
            _add_student(page, plan, origins)
    settings, keys = _settings(plan.values["engine"], "engine")
    page.row("engine", _call(plan.values["options"]["engine"], settings), origins.summary(keys))
    settings, keys = _settings(plan.values["evaluation"], "evaluation")
    page.row("evaluation", _listed(settings), origins.summary(keys))


def _add_steps(page: Page, plan: Plan, steps: list[Step], read: bool) -> None:
    page.block(f"Steps, in order, with their folders in {plan.store}")
    for step in steps:
        if read:
            page.row("done" if step.done else "to do", f"{step.name}/{step.key}", step.about)
        else:
            page.row("", step.name, step.about)


# ---- parts of them


def _stages(plan: Plan, origins: Origins) -> Iterator[tuple[str, Plan, Origins]]:
    """The recipe's stages with the origins of their numbers; a single one needs no name."""
    written = named_overrides(plan.values["recipe"])
    for name, stage in stages(plan):
        label = name if len(written) > 1 else ""
        yield label, stage, origins if stage is plan else Origins(stage.cfg, name, len(written[name]))


def _steps(plan: Plan) -> list[Step]:
    """All steps, each once, those before the ones that read them."""
    if plan.values["target"] != "teacher":
        results = with_rounds(plan, plan.results())
    elif not (results := plan.pairing.trainings()):
        raise UserError("target=teacher: no member of this teacher is trained here (scorer=cross_encoder is)")
    return list({step.key: step for result in results for step in result.walk()}.values())


def _settings(node: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What is set below a node, and its full keys, both by the shortest name that tells it from the others."""
    leaves = {
        path: value
        for path, value in _leaves(node)
        if value not in (None, "") and path.rpartition(".")[2] not in SPEED_ONLY
    }
    short = {path: _shortest(path, leaves) for path in leaves}
    values = {short[path]: value for path, value in leaves.items()}
    return values, {short[path]: f"{prefix}.{path}" for path in leaves}


def _shortest(path: str, among: Iterable[str]) -> str:
    """The last parts of a path, so many that no other path ends in them."""
    parts = path.split(".")
    endings = (".".join(parts[start:]) for start in range(len(parts) - 1, 0, -1))
    return next((end for end in endings if sum(f".{other}".endswith(f".{end}") for other in among) == 1), path)


def _leaves(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if str(key).startswith("_") or key in HIDDEN:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}.{path}", inner) for path, inner in _leaves(value))
        else:
            yield str(key), value


def _call(name: str, settings: Mapping[str, Any]) -> str:
    return f"{name}({_listed(settings)})" if settings else name


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {number(value)}" for key, value in settings.items())


def _span(value: Any) -> str:
    return f"{value[0]} to {value[1]}" if isinstance(value, list) and len(value) == 2 else number(value)


def _many(queries: int | None) -> str:
    return "" if queries is None else f" ({queries:,} queries)"
