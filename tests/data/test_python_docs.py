import logging
import os
import shutil
import sys

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.python_docs import PythonDocs, parse

TOPICS = ["matrix", "graph", "signal", "polynomial", "histogram", "tree", "cluster", "sequence", "tensor", "interval"]
VERBS = [
    "rotates",
    "merges",
    "samples",
    "compresses",
    "sorts",
    "integrates",
    "filters",
    "encodes",
    "measures",
    "projects",
]
VERSIONS = {"alpha": "1.0", "beta": "1.0"}


def function(number):
    verb, topic, other = VERBS[number % 10], TOPICS[number // 10 % 10], TOPICS[(number // 100 + number) % 10]
    return f'''
def fun_{number}(x):
    """It {verb} item {number} of the {topic}.

    Parameters
    ----------
    x : the {topic} number {number}, made of part {number * 7} and {verb} {other} {number * 13} once per step {number}.

    >>> m.fun_{number}(3)
    """
    raise RuntimeError("never run")
'''


@pytest.fixture
def root(tmp_path):
    for package, numbers in {"alpha": range(250), "beta": range(250, 400)}.items():
        folder = tmp_path / "site" / package / "sub"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (folder / "a.py").write_text("".join(map(function, numbers)))
        (folder / "tests").mkdir()
        (folder / "tests" / "b.py").write_text(function(9999))
    return tmp_path / "site"


def everything(source):
    return {split: (list(source.queries(split).items()), source.judgements(split)) for split in source.splits()}, list(
        source.passages()
    )


def test_every_query_has_its_own_passage(root):
    source = PythonDocs(VERSIONS, root=root)
    passages = {passage.id: passage for passage in source.passages()}
    assert len(passages) == 400
    assert "alpha/sub/a.py:fun_17" in passages
    assert all(passage.title == "" for passage in passages.values())
    assert source.splits() == ["train", "dev", "test"]
    seen = set()
    for split in source.splits():
        queries, judgements = source.queries(split), source.judgements(split)
        assert list(queries) == list(judgements)
        for query_id, relevant in judgements.items():
            ((passage_id, grade),) = relevant.items()
            assert query_id == f"q:{passage_id}"
            assert grade == 1
            number = passage_id.rpartition("_")[2]
            assert f"item {number} " in queries[query_id]
            assert f"number {number}," in passages[passage_id].text
        assert not seen & queries.keys()
        seen |= queries.keys()
    assert len(seen) == 400


def test_text_is_clean_and_the_name_is_gone(root):
    passage = next(iter(PythonDocs(VERSIONS, root=root).passages())).text
    assert passage == "Parameters x : the matrix number 0, made of part 0 and rotates matrix 0 once per step 0. (3)"


def test_packages_are_not_imported(root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    assert len(list(PythonDocs(VERSIONS).passages())) == 400
    assert "alpha" not in sys.modules


def test_cache_gives_the_same_without_parsing(root, tmp_path, monkeypatch):
    source = PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root)
    fresh, digest = everything(source), source.digest()
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".parquet"]
    monkeypatch.setattr("retrieval_kd.data.python_docs.parse", lambda _: pytest.fail("parsed again"))
    again = PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root)
    assert everything(again) == fresh
    assert again.digest() == digest


def test_digest_of_a_parsed_collection_is_read_once_and_without_its_texts(root, tmp_path, monkeypatch):
    digest = PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root).digest()
    for function in ("parse", "read_documents", "content_digest"):
        monkeypatch.setattr(f"retrieval_kd.data.python_docs.{function}", lambda *_: pytest.fail("texts were needed"))
    again = PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root)
    assert again.digest() == digest
    monkeypatch.setattr("retrieval_kd.data.python_docs.source_files", lambda *_: pytest.fail("looked for files again"))
    assert again.digest() == digest


def test_digest_names_the_content(root, tmp_path):
    digest = PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root).digest()
    copy = shutil.copytree(root, tmp_path / "copy")
    assert PythonDocs(VERSIONS, root=copy).digest() == digest
    assert PythonDocs({"alpha": "1.0"}, root=root).digest() != digest
    file = root / "beta/sub/a.py"
    file.write_text(file.read_text().replace("once per step 300", "twice per step 300"))
    assert PythonDocs(VERSIONS, cache=tmp_path / "cache", root=root).digest() != digest


def test_splits_stay_where_they_are_when_a_package_is_added(root):
    both, one = PythonDocs(VERSIONS, root=root), PythonDocs({"alpha": "1.0"}, root=root)
    for split in one.splits():
        assert set(one.queries(split)) == {query for query in both.queries(split) if query.startswith("q:alpha")}


def test_near_duplicates_share_a_split_and_ambiguous_queries_are_dropped(tmp_path):
    folder = tmp_path / "gamma"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    body = " ".join(f"word{number}" for number in range(40))
    lines = []
    for number in range(60):
        unique = " ".join(f"term{number}x{place}" for place in range(40))
        lines += [
            f'def a{number}():\n    """Query number {number} left side.\n\n    {number} {unique} end.\n    """\n',
            f'def b{number}():\n    """Other words {number} for it.\n\n    {number} {unique} stop.\n    """\n',
        ]
    lines += [f'def c{side}():\n    """One query for two.\n\n    {side} {body}\n    """\n' for side in ("p", "q")]
    lines += [
        f'def d{side}():\n    """Passage copied {side} times.\n\n    same {body[::-1]}\n    """\n' for side in "12"
    ]
    (folder / "m.py").write_text("".join(lines))
    documents = {document.id.partition(":")[2]: document for document in parse({"gamma": folder})}
    assert all(documents[f"a{number}"].split == documents[f"b{number}"].split for number in range(60))
    assert {documents[f"a{number}"].split for number in range(60)} == {"train", "dev", "test"}
    assert documents["cp"].query == documents["cq"].query == ""
    assert documents["cp"].split == documents["cq"].split
    assert "d1" in documents
    assert "d2" not in documents


def test_mistakes_are_told(root, caplog):
    with pytest.raises(
        UserError, match=r"data\.packages\.nowhere: not installed.*pip install 'retrieval-kd\[quickstart\]'"
    ):
        list(PythonDocs({"nowhere": "1"}, root=root).passages())
    with pytest.raises(UserError, match=r"data\.packages\.no_such_package_here: not installed"):
        list(PythonDocs({"no_such_package_here": "1"}).passages())
    with pytest.raises(UserError, match=r"data\.split: .*'valid' here; it has train, dev, test"):
        PythonDocs(VERSIONS, root=root).queries("valid")
    (root / "empty").mkdir()
    (root / "empty" / "__init__.py").write_text("")
    with pytest.raises(UserError, match=r"data\.split: .*'dev' here; it has "):
        PythonDocs({"empty": "1"}, root=root).queries("dev")
    metadata = root / "alpha-2.5.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 2.5\n")
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        PythonDocs({"alpha": "2.4"}, root=root).digest()
        assert "alpha 2.5 is installed, 2.4 is stated" in caplog.text
        caplog.clear()
        PythonDocs({"alpha": "2.5"}, root=root).digest()
        assert not caplog.records


def test_an_edited_package_is_parsed_again(root, tmp_path):
    cache = tmp_path / "cache"
    PythonDocs(VERSIONS, cache=cache, root=root).digest()
    file = root / "alpha/sub/a.py"
    os.utime(file, ns=(1, 1))
    PythonDocs(VERSIONS, cache=cache, root=root).digest()
    assert len(list(cache.iterdir())) == 2
