"""A Weights & Biases workspace as data: which panels show what a training logs; pushed by ``wandb-workspaces``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.curves import PANELS
from retrieval_kd.evaluation.tables import COSTS

STEP = "trainer/global_step"
LOSSES, VALIDATION = "train/", "validation/"  # panels of curves that have sections of their own here


@dataclass(frozen=True)
class Panel:
    """Metrics beside each other: lines over steps, or bars of what a run came to."""

    title: str
    metrics: tuple[str, ...] = ()
    pattern: str = ""  # of metrics, where their names depend on what was chosen
    bars: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


def sections(objectives: Sequence[str], measures: Sequence[str]) -> list[Section]:
    """What is shown, for the objectives and measures that there are."""
    terms = tuple(f"{LOSSES}{name}" for name in objectives)
    losses = (
        Panel("Loss", (f"{LOSSES}loss",)),
        Panel("Objectives", terms),
        *(Panel(term.removeprefix(LOSSES), (term,)) for term in terms),
        Panel("Regularizer", (f"{LOSSES}penalty",)),
    )
    quality = (
        Panel("nDCG@10 on the validation queries", (f"{VALIDATION}ndcg@10",)),
        *(Panel(f"{measure}, evaluated", (f"evaluation/{measure}",), bars=True) for measure in measures),
    )
    cost = tuple(Panel(title, (f"cost/{key}",), bars=True) for key, (title, _) in COSTS.items())
    return [
        Section("Losses per objective", losses),
        Section("Diagnostics", tuple(_diagnostics())),
        Section("nDCG by step", quality),
        Section("Cost", cost),
    ]


def _diagnostics() -> Iterator[Panel]:
    """The panels that are drawn beside a run; those of one kind are one, since a pattern leaves nothing out."""
    told = {prefix: title for title, prefix, _ in PANELS if prefix not in (LOSSES, VALIDATION)}
    for prefix, title in told.items():
        kin = [one for one in told if one != prefix and (one.startswith(prefix) or prefix.startswith(one))]
        if not any(prefix.startswith(one) for one in kin):
            yield Panel(prefix.rpartition("/")[2].strip("_").capitalize() if kin else title, pattern=f"^{prefix}")


def as_json(name: str, project: str, entity: str | None, shown: Sequence[Section]) -> dict[str, Any]:
    """What would be pushed."""
    return {"name": name, "project": project, "entity": entity, "sections": [asdict(section) for section in shown]}


def workspace(about: Mapping[str, Any]) -> Any:
    """The library's workspace of what ``as_json`` says."""
    ws, wr = _library()

    def panel(one: Mapping[str, Any]) -> Any:
        if one["bars"]:
            return wr.BarPlot(title=one["title"], metrics=list(one["metrics"]))
        if one["pattern"]:
            return wr.LinePlot(title=one["title"], x=STEP, metric_regex=one["pattern"])
        return wr.LinePlot(title=one["title"], x=STEP, y=list(one["metrics"]))

    return ws.Workspace(
        name=about["name"],
        entity=about["entity"] or "",
        project=about["project"],
        sections=[
            ws.Section(name=section["name"], panels=[panel(one) for one in section["panels"]], is_open=True)
            for section in about["sections"]
        ],
    )


def push(about: Mapping[str, Any]) -> str:
    """Save the workspace; its address."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UserError("offline=false needs an account: wandb login, or a key in WANDB_API_KEY")
    try:
        made = workspace({**about, "entity": about["entity"] or wandb.Api().default_entity})
        made.save()
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise UserError(f"the dashboard was not pushed: {' '.join(str(error).split())}") from error
    return str(made.url)


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError("a dashboard needs wandb-workspaces: pip install retrieval-kd[wandb]") from error
    return ws, wr
