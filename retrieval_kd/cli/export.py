"""Write a trained student as a folder that other libraries load and that scores the same there.

usage: retrieval-kd export model=DIR output_dir=FOLDER

  retrieval-kd export model=outputs/…/model output_dir=my_student      then SentenceTransformer("my_student")
"""

from __future__ import annotations

from retrieval_kd.contracts import UserError

KEYS = ("model", "output_dir")


def run(arguments: list[str]) -> int:
    """Export and print the folder."""
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose

    cfg = compose(arguments)
    for key, example in (("model", "outputs/…/model"), ("output_dir", "my_student")):
        if cfg[key] is None:
            raise UserError(f"export needs {key}={example}")
    check(cfg, trains=False)
    from retrieval_kd.pipeline.run import export

    print(export(cfg))
    return 0
