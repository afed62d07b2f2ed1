import json
import logging

import pytest

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.collections import Limit, collection_digest, open_collection
from retrieval_kd.data.folder import Folder


class Memory:
    """A source without files: two splits, one query for each passage that it judges."""

    name = "memory"

    def __init__(self, passages=50, reverse=False):
        self._ids = [f"d{number}" for number in range(passages)]
        self._order = self._ids[:: -1 if reverse else 1]

    def digest(self):
        return "memory " + " ".join(self._order)

    def splits(self):
        return ["train", "test"]

    def passages(self):
        return (Passage(name, "Title", f"text of {name}") for name in self._order)

    def queries(self, split):
        return {f"{split}-{name}": f"{split} {name}?" for name in self._ids[:: 2 if split == "train" else 5]}

    def judgements(self, split):
        return {query: {query.split("-")[1]: 1} for query in self.queries(split)}


def write_folder(path, corpus=("d1", "d2", "d3"), queries=("q1", "q2", "q3"), judgements=("q1\td1\t1", "q3\td2\t2")):
    (path / "qrels").mkdir(parents=True)
    for name, ids in (("corpus", corpus), ("queries", queries)):
        records = ({"_id": name, "title": "T", "text": f"text of {name}"} for name in ids)
        (path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "qrels" / "test.tsv").write_text("\n".join(judgements))
    return Folder(path)


def ids(collection):
    return collection.passages.ids(range(len(collection.passages)))


def test_opens_what_the_source_gives(tmp_path):
    collection = open_collection(write_folder(tmp_path / "things"), "test", tmp_path / "store")
    assert (collection.name, collection.split) == ("things", "test")
    assert collection.passages.texts(range(3)) == ["T text of d1", "T text of d2", "T text of d3"]
    assert collection.queries == {"q1": "text of q1", "q3": "text of q3"}
    assert collection.judgements == {"q1": {"d1": 1}, "q3": {"d2": 2}}


def test_passages_are_stored_once_for_all_splits(tmp_path, monkeypatch):
    source = Memory()
    first = open_collection(source, "train", tmp_path)
    monkeypatch.setattr(source, "passages", lambda: pytest.fail("read again"))
    assert open_collection(source, "test", tmp_path).passages.path == first.passages.path
    assert first.passages.path.parent == tmp_path / "passages"


def test_without_titles(tmp_path):
    source = Memory()
    assert open_collection(source, "test", tmp_path, titles=False).passages.texts([0]) == ["text of d0"]
    assert open_collection(source, "test", tmp_path).passages.texts([0]) == ["Title text of d0"]


def test_without_judgements_the_queries_stay(tmp_path):
    collection = open_collection(Memory(), "test", tmp_path, judgements="none")
    assert collection.judgements is None
    assert collection.queries == Memory().queries("test")


def test_digest_names_what_decides_the_content(tmp_path):
    options = [
        {},
        {"split": "train"},
        {"titles": False},
        {"limit": {"queries": 3}},
        {"limit": {"queries": {"test": 3}}},
        {"limit": {"passages": 3}},
        {"judgements": "none"},
        {"source": Memory(49)},
    ]
    digests = [collection_digest(**{"source": Memory(), "split": "test"} | option) for option in options]
    assert len(set(digests)) == len(options)
    assert collection_digest(Memory(), "test", limit={"queries": None, "passages": None}) == digests[0]
    opened = open_collection(Memory(), "test", tmp_path, limit={"passages": 3})
    assert opened.digest == digests[5]


def test_a_limit_keeps_the_judged_passages_of_every_split_and_fills_up(tmp_path):
    limit = {"queries": {"train": 4, "test": 3}, "passages": 20}
    train = open_collection(Memory(), "train", tmp_path, limit=limit)
    test = open_collection(Memory(), "test", tmp_path, limit=limit)
    assert (len(train.queries), len(test.queries)) == (4, 3)
    assert train.passages.path == test.passages.path
    assert len(train.passages) == 20
    for collection in (train, test):
        assert collection.judgements.keys() == collection.queries.keys()
        judged = {passage for judged in collection.judgements.values() for passage in judged}
        assert judged <= set(ids(collection))
    positions = [int(name[1:]) for name in ids(train)]
    assert positions == sorted(positions)
    assert train.passages.texts([0]) == [f"Title text of d{positions[0]}"]


def test_judged_passages_stay_even_if_they_are_more_than_the_limit(tmp_path):
    limit = {"queries": 4, "passages": 2}
    test, train = (open_collection(Memory(), split, tmp_path, limit=limit) for split in ("test", "train"))
    judged = {passage for part in (test, train) for judged in part.judgements.values() for passage in judged}
    assert set(ids(test)) == judged
    assert len(judged) > 2


def test_who_is_kept_depends_on_ids_alone_and_larger_limits_keep_more(tmp_path):
    small, large = ({"queries": count, "passages": 5 * count} for count in (3, 6))
    kept = open_collection(Memory(), "test", tmp_path, limit=small)
    turned = open_collection(Memory(reverse=True), "test", tmp_path, limit=small)
    more = open_collection(Memory(), "test", tmp_path, limit=large)
    assert kept.queries == turned.queries
    assert ids(kept) == ids(turned)[::-1]
    assert set(kept.queries) < set(more.queries)
    assert set(ids(kept)) < set(ids(more))


def test_a_limit_above_the_size_changes_nothing(tmp_path):
    whole = open_collection(Memory(), "test", tmp_path)
    limited = open_collection(Memory(), "test", tmp_path, limit={"queries": 1000, "passages": 1000})
    assert limited.passages.path == whole.passages.path
    assert limited.queries == whole.queries


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 5}, "data.limit: {queries: N, passages: M} expected, found 5"),
        ({"limit": {"query": 5}}, "data.limit: {queries: N, passages: M} expected"),
        ({"limit": {"queries": 0}}, "data.limit: whole numbers from 1 expected"),
        ({"limit": {"passages": "many"}}, "data.limit: whole numbers from 1 expected"),
        ({"limit": {"queries": {"tset": 5}}}, "data.limit.queries: memory has no split 'tset'; train, test"),
        ({"judgements": "some"}, "data.judgements: null (the source's) or 'none' expected, found 'some'"),
        ({"unknown": "drop"}, "data.unknown: 'error' or 'skip' expected, found 'drop'"),
        ({"split": "dev"}, "memory: no split 'dev' (data.split); there is train, test"),
    ],
)
def test_bad_options_are_told_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        open_collection(**{"source": Memory(), "split": "test", "store": tmp_path} | options)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_limit_of_a_limit():
    assert Limit.of(Limit(3, 4)) == Limit.of({"queries": 3, "passages": 4})


def test_duplicate_passage_is_told_by_file_and_line(tmp_path):
    source = write_folder(tmp_path / "things", corpus=("d1", "d2", "d1"))
    with pytest.raises(UserError, match=r"corpus.jsonl:3: passage id 'd1' is given twice, first in .*corpus.jsonl:1"):
        open_collection(source, "test", tmp_path / "store")
    assert list((tmp_path / "store" / "passages").iterdir()) == []


UNKNOWN = ("q1\td1\t1", "q1\td8\t1", "q9\td1\t1", "q2\td9\t0", "q2\td8\t1")


def test_unknown_judgements_are_told_with_place_count_and_first_cases(tmp_path):
    source = write_folder(tmp_path / "things", judgements=UNKNOWN)
    with pytest.raises(UserError) as caught:
        open_collection(source, "test", tmp_path / "store")
    assert str(caught.value) == (
        f"{tmp_path}/things/qrels/test.tsv:2: unknown passage 'd8'; 4 judgement(s) name an unknown query or passage: "
        "q1 d8, q9 d1, q2 d9, …; data.unknown=skip leaves them out"
    )


def test_unknown_query(tmp_path):
    source = write_folder(tmp_path / "things", judgements=("q1\td1\t1", "q9\td1\t1"))
    with pytest.raises(UserError, match=r"test.tsv:2: unknown query 'q9'; 1 judgement\(s\)"):
        open_collection(source, "test", tmp_path / "store")


def test_skipping_leaves_out_what_is_unknown_and_says_so(tmp_path, caplog):
    source = write_folder(tmp_path / "things", judgements=UNKNOWN)
    with caplog.at_level(logging.WARNING):
        collection = open_collection(source, "test", tmp_path / "store", unknown="skip")
    assert collection.judgements == {"q1": {"d1": 1}}
    assert list(collection.queries) == ["q1"]
    assert "things/test: 4 judgement(s)" in caplog.text


def test_a_limit_beside_unknown_judgements_in_another_split(tmp_path):
    source = write_folder(tmp_path / "things", judgements=("q1\td1\t1",))
    (tmp_path / "things" / "qrels" / "train.tsv").write_text("\n".join(UNKNOWN))
    source = Folder(tmp_path / "things")
    collection = open_collection(source, "test", tmp_path / "store", limit={"passages": 1})
    assert ids(collection) == ["d1"]


def test_nothing_left_is_an_empty_split(tmp_path):
    source = write_folder(tmp_path / "things", judgements=("q9\td1\t1",))
    with pytest.raises(UserError, match="things/test: the split has no queries"):
        open_collection(source, "test", tmp_path / "store", unknown="skip")


def test_a_damaged_store_is_not_used(tmp_path):
    collection = open_collection(Memory(), "test", tmp_path)
    (collection.passages.path / "texts.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged: texts.bin has 0 bytes, 840 expected; delete the folder"):
        open_collection(Memory(), "test", tmp_path)
