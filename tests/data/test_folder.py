import gzip
import json

import pytest

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.folder import Folder

CORPUS = [
    {"_id": "d1", "title": "One", "text": "first"},
    {"_id": "d2", "text": "no title"},
    {"_id": "d3", "title": None, "text": "", "metadata": {"left": "out"}},
]
QUERIES = [{"_id": name, "text": f"what is {name}?"} for name in ("q3", "q1", "q2")]


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "things"
    write(folder / "corpus.jsonl", lines(CORPUS))
    write(folder / "queries.jsonl", lines(QUERIES))
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq3\td3\t1\n")
    return folder


def test_reads_the_layout(path):
    folder = Folder(path)
    assert folder.name == "things"
    assert Folder(path, name="mine").name == "mine"
    assert folder.splits() == ["test"]
    assert list(folder.passages()) == [
        Passage("d1", "One", "first"),
        Passage("d2", "", "no title"),
        Passage("d3", "", ""),
    ]
    assert list(folder.queries("test").items()) == [("q3", "what is q3?"), ("q1", "what is q1?")]
    assert folder.judgements("test") == {"q1": {"d1": 2, "d2": 0}, "q3": {"d3": 1}}


def test_gzip_byte_order_mark_blank_lines_and_windows_line_ends_change_nothing(path):
    plain = Folder(path)
    plain_passages = list(plain.passages())
    corpus = "\ufeff" + lines(CORPUS).replace("\n", "\r\n\r\n")
    (path / "corpus.jsonl").unlink()
    write(path / "corpus.jsonl.gz", corpus)
    (path / "queries.jsonl").rename(path / "old")
    write(path / "queries.jsonl.gz", lines(QUERIES))
    other = Folder(path)
    assert list(other.passages()) == plain_passages
    assert other.queries("test") == {"q3": "what is q3?", "q1": "what is q1?"}
    assert other.judgements("test") == plain.judgements("test")


JUDGED = {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 0}}


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t-1\nq2\td1\t0\n",
        "q1\td1\t2\nq1\td2\t-1\nq2\td1\t0",
        "q1 d1 2\r\nq1 d2 -1\r\n\r\nq2 d1 0\r\n",
        "q1 0 d1 2\nq1 0 d2 -1\nq2 0 d1 0\n",
        "q1\tQ0\td1\t2\nq1\tQ0\td2\t-1\nq2\tQ0\td1\t0\nq2\tQ0\td1\t0\n",
    ],
)
@pytest.mark.parametrize(
    "name", ["qrels/test.tsv", "qrels/test.trec", "qrels/test.txt", "qrels.test.trec", "qrels/qrels.test.trec"]
)
def test_forms_and_places_of_judgements(path, text, name):
    (path / "qrels" / "test.tsv").unlink()
    write(path / name, text)
    folder = Folder(path)
    assert folder.splits() == ["test"]
    assert folder.judgements("test") == JUDGED


def test_a_query_that_is_called_like_a_header_is_no_header(path):
    write(path / "qrels" / "test.tsv", "query\td1\t1\nq1\td2\t1\n")
    assert Folder(path).judgements("test") == {"query": {"d1": 1}, "q1": {"d2": 1}}


def test_splits_come_training_first(path):
    for name in ("zoo", "validation", "dev", "train", "a.b"):
        write(path / "qrels" / f"{name}.tsv", "q1\td1\t1\n")
    write(path / "qrels" / "README.md", "not judgements")
    assert Folder(path).splits() == ["train", "dev", "validation", "test", "a.b", "zoo"]


def test_a_folder_without_judgements_has_all_queries(path):
    (path / "qrels" / "test.tsv").unlink()
    folder = Folder(path)
    assert folder.splits() == ["all"]
    assert list(folder.queries("all")) == ["q3", "q1", "q2"]
    assert folder.judgements("all") is None


def test_digest_follows_every_file_and_only_the_content(path, tmp_path):
    seen = [Folder(path, cache=tmp_path / "cache").digest()]
    assert Folder(path, name="other").digest() == seen[0]
    for name, text in [
        ("corpus.jsonl", lines(CORPUS[:2])),
        ("queries.jsonl", lines(QUERIES[::-1])),
        ("qrels/test.tsv", "q1\td1\t1\n"),
        ("qrels/dev.tsv", "q1\td1\t1\n"),
    ]:
        write(path / name, text)
        seen.append(Folder(path, cache=tmp_path / "cache").digest())
    assert len(set(seen)) == 5


def everything(path):
    folder = Folder(path)
    list(folder.passages())
    for split in folder.splits():
        folder.queries(split)


GOOD = '{"_id": "d0", "text": "fine"}\n\n'


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "queries.jsonl.gz"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"_id": "d9", "text": "cut', ":3: not valid JSON: "),
        (b'["d9", "text"]', ":3: a JSON object expected, found list"),
        (b'{"id": "d9", "text": "x"}', ':3: field "_id" is missing; found: "id", "text"'),
        (b'{"_id": "d9", "contents": "x"}', ':3: field "text" is missing; found: "_id", "contents"'),
        (b'{"_id": "d9", "text": null}', ':3: field "text" must be a string, found null'),
        (b'{"_id": 9, "text": "x"}', ':3: field "_id" must be a string, found 9'),
        (b'{"_id": "", "text": "x"}', ':3: field "_id" must have no white space and not be empty'),
        (b'{"_id": "d 9", "text": "x"}', ":3: field \"_id\" must have no white space and not be empty, found 'd 9'"),
        (b'{"_id": "d9", "text": "caf\xe9"}', ":3: not UTF-8 (byte 27 of the line)"),
        (b'{"_id": "d9", "text": "\\ud83d"}', ":3: half of a surrogate pair"),
    ],
)
def test_bad_records_are_told_by_file_and_line(path, name, line, message):
    (path / name.removesuffix(".gz")).unlink()
    write(path / name, GOOD.encode() + line + b"\n")
    with pytest.raises(UserError) as caught:
        everything(path)
    assert str(caught.value).startswith(f"{path / name}{message}")
    assert "\n" not in str(caught.value)


def test_a_whole_surrogate_pair_is_text(path):
    write(path / "corpus.jsonl", '{"_id": "d1", "text": "\\ud83d\\ude42 \\\\ud800"}\n')
    assert next(Folder(path).passages()).text == "🙂 \\ud800"


def test_a_title_that_is_no_string(path):
    write(path / "corpus.jsonl", '{"_id": "d1", "title": 3, "text": "x"}\n')
    with pytest.raises(UserError, match=r'corpus.jsonl:1: field "title" must be a string, found 3'):
        everything(path)


def test_duplicate_query_id(path):
    write(path / "queries.jsonl", lines([*QUERIES, QUERIES[1]]))
    with pytest.raises(UserError, match=r"queries.jsonl:4: query id 'q1' is given twice, first in line 2"):
        everything(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1\td1\t1\nq1\n", ":2: 1 columns, 3 in the lines before; expected 'query-id corpus-id score'"),
        ("q1\td1\n", ":1: 2 columns; expected 'query-id corpus-id score'"),
        ("q1 0 d1 1 run\n", ":1: 5 columns; expected"),
        ("q1\td1\t1\nq1\t0\td1\t1\n", ":2: 4 columns, 3 in the lines before"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t0.5\n", ":2: the relevance must be an integer, found '0.5'"),
        ("q1\td1\thigh\n", ":1: the relevance must be an integer, found 'high'"),
        ("q1\td1\t1\nquery-id\tcorpus-id\tscore\n", ":2: the relevance must be an integer, found 'score'"),
        ("q1\td1\t1\nq1\td1\t2\n", ":2: query 'q1' and passage 'd1' are judged 2 here, 1 before"),
        (b"q1\td1\t1\nq1\td\xff\t1\n", ":2: not UTF-8 (byte 5 of the line)"),
        ("query-id\tcorpus-id\tscore\n", ": no judgements"),
        ("", ": no judgements"),
    ],
)
def test_bad_judgements_are_told_by_file_and_line(path, text, message):
    file = path / "qrels" / "test.tsv"
    write(file, text)
    with pytest.raises(UserError) as caught:
        everything(path)
    assert str(caught.value).startswith(f"{file}{message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("corpus.jsonl", "no corpus.jsonl or corpus.jsonl.gz; expected corpus.jsonl"),
        ("queries.jsonl", "no queries.jsonl or queries.jsonl.gz; expected corpus.jsonl"),
    ],
)
def test_missing_files_say_what_is_expected(path, name, message):
    (path / name).unlink()
    with pytest.raises(UserError, match=message):
        Folder(path)


def test_missing_folder_split_and_content(path, tmp_path):
    with pytest.raises(UserError, match=r"no such folder; expected corpus.jsonl"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no split 'train'; there is test"):
        Folder(path).queries("train")
    write(path / "corpus.jsonl", "\n")
    with pytest.raises(UserError, match=r"corpus.jsonl: no passages"):
        list(Folder(path).passages())
    write(path / "queries.jsonl", "")
    with pytest.raises(UserError, match=r"queries.jsonl: no queries"):
        Folder(path).queries("test")


def test_two_files_for_one_split(path):
    write(path / "qrels.test.trec", "q1 0 d1 1\n")
    with pytest.raises(UserError, match=r"qrels.test.trec: split 'test' has judgements in .*test.tsv already"):
        Folder(path)


def test_a_cut_gzip_file(path):
    (path / "corpus.jsonl").unlink()
    (path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(CORPUS).encode())[:-12])
    with pytest.raises(UserError, match=r"corpus.jsonl.gz: damaged gzip file"):
        everything(path)


def test_places(path):
    write(path / "corpus.jsonl", "\n" + lines([*CORPUS, CORPUS[0]]))
    folder = Folder(path)
    assert folder.passage_places("d1") == [f"{path}/corpus.jsonl:2", f"{path}/corpus.jsonl:5"]
    assert folder.judgement_place("test", "q1", "d2") == f"{path}/qrels/test.tsv:3"
