"""The dashboard of trainings with logger=wandb: losses per objective, diagnostics, nDCG by step, cost; saved or pushed.

usage: retrieval-kd dashboard [offline=false] [entity=NAME] [project=retrieval_kd] [name=NAME] [output_dir=DIR]

  retrieval-kd dashboard                                    what would be pushed, as outputs/dashboard/retrieval_kd.json
  retrieval-kd dashboard offline=false entity=my-team       a workspace of that name in the project
"""

from __future__ import annotations

import json
from pathlib import Path

from retrieval_kd.contracts import UserError

OWN = ("offline", "entity", "project", "name", "output_dir")


def run(arguments: list[str]) -> int:
    """Write the file and, where it is asked for, push it."""
    said = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in said if key not in OWN]
    if unknown:
        raise UserError(f"{unknown[0]}: dashboard knows {', '.join(OWN)}")
    offline = said.get("offline", "true")
    if offline not in ("true", "false"):
        raise UserError(f"offline={offline}: it is true or false")
    from retrieval_kd.data.files import atomic_file
    from retrieval_kd.interop.dashboard import as_json, push, sections
    from retrieval_kd.pipeline import conf_tree

    project = said.get("project") or conf_tree.load("logger/wandb")["project"]
    measures = conf_tree.load("config")["evaluation"]["measures"]
    shown = sections(conf_tree.options()["objective"], measures)
    about = as_json(said.get("name") or "retrieval_kd", project, said.get("entity"), shown)
    path = Path(said.get("output_dir") or "outputs/dashboard") / f"{project}.json"
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(path)
    if offline == "false":
        print(push(about))
    return 0
