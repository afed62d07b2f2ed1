"""The late-interaction student through the whole pipeline, with a tiny encoder."""

import json

import numpy as np
import pytest
from run_case import go, metrics

from retrieval_kd.cli.main import main
from retrieval_kd.contracts import Side
from retrieval_kd.data.representations import StoredRepresentations
from retrieval_kd.data.runs import Run
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.steps import searching

pytestmark = pytest.mark.slow  # whole runs

LATE = (
    "student=late_interaction",
    "student.dimensions=8",
    "student.add_markers=true",
    "student.query.max_length=12",
    "student.passage.max_length=24",
    "objective.contrastive.temperature=1",
    "objective.listwise_kl.student_temperature=1",
)


@pytest.fixture(scope="module")
def trained(small, ensemble, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "FIRST_CHUNK", 7)
        patch.setattr(searching, "CHUNK_BYTES", 1)
        return go(*small, *ensemble, *LATE, f"output_dir={tmp_path_factory.mktemp('late') / 'run'}")


def same(one, other):
    assert one.keys() == other.keys()
    for query_id, found in one.items():
        assert found == pytest.approx(other[query_id], rel=1e-4)


def scores(folder):
    return Run.read(folder / "runs" / "things.test.trec").as_dict()


def test_the_run_is_what_the_student_compares(trained, small, ensemble):
    plan = Plan(compose([*small, *ensemble, *LATE]))
    entry = plan.entries.evaluate[0]
    collection = entry.collection
    student = plan.parts.student(plan.trained)
    texts = collection.passages.texts(np.arange(len(collection.passages)))
    ids = collection.passages.ids(np.arange(len(texts)))
    queries = student.encode_texts(list(collection.queries.values()), Side.QUERY)
    compared = student.compare(queries, student.encode_texts(texts, Side.PASSAGE))
    rows = zip(collection.queries, compared.tolist(), strict=True)
    same(scores(trained), {query: dict(zip(ids, row, strict=True)) for query, row in rows})
    stored = StoredRepresentations.open(plan.encoded(entry).path / "passages")
    assert stored.ids == ids
    assert stored.arrays["tokens"].shape == (stored.arrays["offsets"][-1], 8)
    assert metrics(trained)["cost"]["index_bytes"] > stored.arrays["tokens"].nbytes


@pytest.mark.parametrize("form", [None, "pylate", "stanford"])
def test_every_form_is_evaluated_alike(trained, small, tmp_path, capsys, form):
    said = [] if form is None else [f"format={form}"]
    assert main(["export", f"model={trained}", f"output_dir={tmp_path / 'form'}", *said]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "form")
    assert main(["evaluate", *small, f"model={tmp_path / 'form'}", f"output_dir={tmp_path / 'again'}"]) == 0
    same(scores(tmp_path / "again"), scores(trained))


def test_a_cached_step(small, ensemble, tmp_path):
    folder = go(*small, *ensemble, *LATE, "trainer.gradient_cache=true", f"output_dir={tmp_path / 'run'}")
    assert metrics(folder)["collections"]["things/test"]["measures"]["ndcg@10"] > 0


def test_what_does_not_fit_is_refused_in_one_line(trained, small, tmp_path, capsys):
    place = f"output_dir={tmp_path / 'out'}"
    for arguments, message in (
        (["export", f"model={trained}", place, "format=onnx"], "format=onnx: leave it out"),
        (["export", f"model={trained}", place, "format=opensearch"], "format=opensearch is for sparse students"),
        (["evaluate", *small, *LATE[:2], "recipe=no_training", place], "student.markers.query=[unused0]: "),
        (
            ["evaluate", *small, f"model={trained}", "engine=inverted", place],
            "engine: it searches terms, and the student",
        ),
        (["train", *small, *LATE, "engine=inverted", place], "engine=inverted searches terms, and student="),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, error
        assert "Traceback" not in error
    assert json.loads((trained / "model" / "retrieval_kd.json").read_text())["marking"]["query"] == "[unused0]"
