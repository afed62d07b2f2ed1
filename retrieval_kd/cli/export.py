"""Write a trained student as a folder that other libraries load and that scores the same there.

usage: retrieval-kd export model=DIR output_dir=FOLDER [format=pylate|stanford]
       retrieval-kd export model=DIR output_dir=FOLDER format=opensearch [index=NAME] [question=TEXT] [fields=A,B]

  retrieval-kd export model=outputs/…/model output_dir=my_student      then SentenceTransformer("my_student")
  retrieval-kd export model=outputs/…/model output_dir=my_cluster format=opensearch data=folder data.path=DIR
Sparse students are read by SparseEncoder("my_student"), late-interaction ones by MultiVectorEncoder("my_student");
format=pylate and format=stanford write the latter for PyLate and for Stanford's ColBERT. format=opensearch writes what
a cluster is fed with: query weights, tokenizer, index, the collection's passages as bulk requests, and an example
query; fields are rank_features (exact, the default) and sparse_vector (approximate, release 3.3).
"""

from __future__ import annotations

from retrieval_kd.contracts import UserError

KEYS = ("model", "output_dir")
OPENSEARCH = ("index", "question", "fields")
FORMS = ("pylate", "stanford", "opensearch")


def run(arguments: list[str]) -> int:
    """Export and print the folder."""
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose

    own = dict(one.split("=", 1) for one in arguments if one.split("=", 1)[0] in ("format", *OPENSEARCH))
    form = own.pop("format", None)
    if form not in (None, *FORMS):
        raise UserError(
            f"format={form}: leave it out for a folder that libraries load; else it is {' or '.join(FORMS)}"
        )
    if own and form != "opensearch":
        raise UserError(f"{next(iter(own))} is of format=opensearch; add that, or leave it out")
    cfg = compose([one for one in arguments if one.split("=", 1)[0] not in ("format", *OPENSEARCH)])
    for key, example in (("model", "outputs/…/model"), ("output_dir", "my_student")):
        if cfg[key] is None:
            raise UserError(f"export needs {key}={example}")
    check(cfg, trains=False)
    if form != "opensearch":
        from retrieval_kd.pipeline.run import export

        print(export(cfg, form))
        return 0
    from retrieval_kd.pipeline.run import export_opensearch

    fields = [name for name in own.get("fields", "").strip("[]").split(",") if name]
    print(export_opensearch(cfg, own.get("index"), own.get("question"), fields))
    return 0
