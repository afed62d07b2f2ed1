import pytest
from irds_case import PASSAGES, beir_members, question, text, write_zip

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.beir import FORUMS, SETS, Beir


@pytest.mark.parametrize("name", ["scifact", "arguana", "msmarco", "webis-touche2020", "cqadupstack-gaming"])
def test_a_set_is_what_ir_datasets_reads(irds, name, capfd):
    import ir_datasets

    source = Beir(name)
    docs = ir_datasets.load(f"beir/{source._id}").docs_iter()
    assert [(passage.id, passage.text) for passage in source.passages()] == [(doc.doc_id, doc.text) for doc in docs]
    for split in source.splits():
        data = ir_datasets.load(source._of(split))
        judged = data.qrels_dict()
        assert source.judgements(split) == judged
        assert source.queries(split) == {
            one.query_id: one.text for one in data.queries_iter() if one.query_id in judged
        }


def test_passages_queries_and_judgements(irds):
    source = Beir("scifact")
    assert list(source.passages())[:2] == [Passage("d0", "", text(0)), Passage("d1", "t1", text(1))]
    assert len(list(source.passages())) == PASSAGES
    assert source.queries("test") == {f"q{row}": question(row) for row in range(4, 8)}
    assert source.judgements("train") == {f"q{row}": {f"d{row}": 1 + row % 2} for row in range(4)}
    with pytest.raises(UserError, match=r"data.split=dev: scifact has train, test"):
        source.queries("dev")


def test_every_set_is_known_to_ir_datasets(irds):
    import ir_datasets

    for name in SETS:
        source = Beir(name)
        for split in source.splits():
            assert ir_datasets.load(source._of(split)).has_qrels()
    assert len(FORUMS) == 12


def test_lengths_and_splits_of_each_set():
    assert Beir("arguana").lengths == {"query": 300, "passage": 300}
    assert Beir("climate-fever").lengths == {"query": 64, "passage": 300}
    assert Beir("scifact").lengths == {"query": None, "passage": 300}
    assert (Beir("msmarco").default_split, Beir("nq").default_split) == ("dev", "test")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("scifacts", "scifact"),
        ("SciFact", "scifact"),
        ("touche2020", "webis-touche2020"),
        ("dbpedia", "dbpedia-entity"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_and_the_list(name, meant):
    with pytest.raises(UserError) as caught:
        Beir(name, groups={"beir-13": []})
    told = str(caught.value)
    assert told.startswith(f"data.name={name}: BEIR has no such set; did you mean {meant}? There are arguana, ")
    assert told.endswith("webis-touche2020-v1, beir-13")


def test_forums_share_an_archive_and_differ_in_digest(irds):
    android, gaming = Beir("cqadupstack-android"), Beir("cqadupstack-gaming")
    assert android._archive.path == gaming._archive.path
    assert android.digest() != gaming.digest()
    assert len(list(android.passages())) != len(list(gaming.passages()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-40]),
            r"source.zip: cannot be read \(File is not a zip file\)",
        ),
        (lambda path: write_zip(path, {"other/corpus.jsonl": ""}), r"source.zip: cannot be read \(.*no item named"),
        (
            lambda path: write_zip(path, beir_members("arguana") | {"arguana/corpus.jsonl": '{"_id": "d1"}\n'}),
            r'source.zip/arguana/corpus.jsonl:1: field "text" is missing',
        ),
    ],
)
def test_archives_that_are_no_such_archive(irds, change, message):
    path = irds / "beir" / "arguana" / "source.zip"
    whole = path.read_bytes()
    try:
        change(path)
        with pytest.raises(UserError, match=message):
            list(Beir("arguana", verify=False).passages())
    finally:
        path.write_bytes(whole)
