import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest
from irds_case import WIKI, lines

from retrieval_kd.contracts import UserError
from retrieval_kd.data.collections import open_collection
from retrieval_kd.data.open_questions import SETS, OpenQuestions, Question, read_questions, unquoted


@pytest.fixture
def ijson(irds, monkeypatch):
    """ijson where it is installed, else something that reads such a file at once."""
    import ir_datasets

    try:
        import ijson  # noqa: F401
    except ImportError:
        reader = SimpleNamespace(items=lambda stream, _: iter(json.load(stream)))
        monkeypatch.setitem(ir_datasets.lazy_libs._cache, "ijson", reader)


def test_passages_are_what_csv_means(irds):
    passages = list(OpenQuestions("nq", ["test"]).passages())
    expected = list(csv.reader(io.StringIO(lines(WIKI)), delimiter="\t"))
    assert [[passage.id, passage.text, passage.title] for passage in passages] == expected
    assert passages[0].text == 'Aaron is a "prophet" and the brother of Moses.'


@pytest.mark.parametrize("text", ["", '"', 'a "b" c', '"a ""b"" c"', '""'])
def test_quotes(text):
    assert unquoted(text) == (next(csv.reader([text]))[0] if text not in ("", '"') else text)


def test_the_test_questions_have_answers_and_no_judgements(irds, tmp_path):
    source = OpenQuestions("nq", ["test"])
    assert source.judgements("test") is None
    assert source.queries("test") == {"0": "who was aaron's brother", "1": "where is the café", "2": "what happened"}
    assert source.answers("test")["0"] == ("moses", "Moses ben Amram")
    opened = open_collection(source, "test", tmp_path, limit={"queries": 2})
    assert opened.answers.keys() == opened.queries.keys()
    assert len(opened.queries) == 2


def test_the_gzipped_file_of_triviaqa(irds):
    assert OpenQuestions("triviaqa", ["test"]).queries("test") == OpenQuestions("nq", ["test"]).queries("test")


def test_another_number_of_test_questions_is_refused(irds, monkeypatch):
    monkeypatch.setitem(SETS, "nq", SETS["nq"]._replace(questions=3_610))
    with pytest.raises(UserError, match=r"nq-test.qa.csv: 3 questions, 3,610 expected: .*data.verify=false"):
        OpenQuestions("nq", ["test"]).queries("test")
    assert len(OpenQuestions("nq", ["test"], verify=False).queries("test")) == 3


def test_questions_to_train_on_have_dprs_positives(irds, ijson, capfd):
    source = OpenQuestions("nq", ["train", "dev", "test"])
    assert len(source.digest()) == 32
    assert source.judgements("train") == {"0": {"1": 2, "2": 1}}
    assert source.queries("train") == {"0": "who was aaron's brother"}
    assert source.answers("dev") == {"0": ("Moses",), "1": ("nothing", "none")}


def test_without_ijson_it_is_told_what_to_install(irds, monkeypatch):
    import ir_datasets

    monkeypatch.delitem(ir_datasets.lazy_libs._cache, "ijson", raising=False)
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(
        UserError, match=r"data.splits: dev of triviaqa needs the package ijson: pip install 'retrieval"
    ):
        OpenQuestions("triviaqa", ["dev"]).judgements("dev")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("nqq",), r"data.name=nqq: data=nq has no such set; did you mean nq\? There are nq, triviaqa, squad"),
        (("squad", ["train"]), "data.splits: squad has test, found train"),
        (("nq", []), "data.splits: nq has train, dev, test, found none"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        OpenQuestions(*settings)


@pytest.mark.parametrize("line", ["no tab", "q\tnot a list", "q\t[1, 2]", "q\t__import__('os').system('false')"])
def test_answers_are_read_and_never_run(tmp_path, line):
    (tmp_path / "q.csv").write_text(f"fine\t['a']\n{line}\n")
    with pytest.raises(UserError, match=r"q.csv:2: "):
        read_questions(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text("fine\t['a', \"b's\"]\n")
    assert read_questions(tmp_path / "q.csv") == [Question("0", "fine", ("a", "b's"))]
