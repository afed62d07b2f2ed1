"""Quality against cost over finished runs: which of them no other beats at both, as a table and a plot.

usage: retrieval-kd pareto FOLDER … [measure='COLLECTION/SPLIT ndcg@10'] [costs=flops,latency_p99_ms] [output_dir=DIR]

A folder is that of a run, or one that holds such. Runs that differ in their seed alone are one point. Costs: flops,
latency_p50_ms, latency_p99_ms, latency_p99_ms_2_clients, passage_terms_mean, index_bytes.

  retrieval-kd train -m experiment=inference_free_sparse regularizer.passage_weight=0.01,0.03,0.1
  retrieval-kd pareto outputs/inference_free_sparse                   output_dir also keeps pareto.md, .json, .png, .svg
"""

from __future__ import annotations

from pathlib import Path

from retrieval_kd.contracts import UserError

OWN = ("measure", "costs", "output_dir")


def run(arguments: list[str]) -> int:
    """Print the table; with ``output_dir``, keep it and draw the plot."""
    folders = [Path(argument) for argument in arguments if "=" not in argument or Path(argument).exists()]
    said = dict(argument.split("=", 1) for argument in arguments if Path(argument) not in folders)
    unknown = [key for key in said if key not in OWN]
    if unknown:
        raise UserError(f"{unknown[0]}: pareto knows {', '.join(OWN)}")
    if not folders:
        raise UserError("pareto needs folders of runs: retrieval-kd pareto outputs/inference_free_sparse")
    from retrieval_kd.pipeline.fronts import write_front

    costs = tuple(name for name in said.get("costs", "").strip("[]").split(",") if name)
    place = Path(said["output_dir"]) if said.get("output_dir") else None
    print(write_front(folders, said.get("measure"), costs, place))
    return 0
