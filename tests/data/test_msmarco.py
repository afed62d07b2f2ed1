"""MS MARCO from its own archives: what ir_datasets gives, read faster."""

import gzip
import os
import shutil
from pathlib import Path

import pytest
from irds_case import BROKEN, PASSAGES, question, tar_gz, text

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.collections import open_collection
from retrieval_kd.data.msmarco import TERMS, MsMarco

ALL = ["train", "train_all", "dev", "dl19", "dl20"]


@pytest.fixture
def source(irds):
    return MsMarco(ALL)


def texts():
    return [BROKEN[row][1] if row in BROKEN else text(row) for row in range(PASSAGES)]


def test_passages_in_their_order_with_repaired_characters(source):
    assert list(source.passages()) == [Passage(str(row), "", told) for row, told in enumerate(texts())]


def test_passages_equal_those_of_ir_datasets(source, capfd):
    import ir_datasets

    theirs = [(doc.doc_id, doc.text) for doc in ir_datasets.load("msmarco-passage").docs_iter()]
    assert [(passage.id, passage.text) for passage in source.passages()] == theirs


def test_what_ir_datasets_unpacked_is_read_where_the_archive_is_gone(source, irds, tmp_path):
    import ir_datasets

    source.digest()  # unpacks queries and judgements
    expected = list(source.passages())
    list(ir_datasets.load("msmarco-passage").docs_iter())  # unpacks, and notes that characters are repaired
    archive = irds / "msmarco-passage" / "collectionandqueries.tar.gz"
    kept = shutil.move(archive, tmp_path)
    try:
        assert MsMarco(["dev"]).ready()
        assert list(source.passages()) == expected
        # Unpacked by hand, nobody has repaired it.
        note, unpacked = (irds / "msmarco-passage" / name for name in ("irds_version.txt", "collection.tsv"))
        repaired, known = unpacked.read_text(), note.read_text()
        unpacked.write_text(repaired.replace(*reversed(BROKEN[3])))
        note.unlink()
        assert list(source.passages()) == expected
        unpacked.write_text(repaired)
        note.write_text(known)
    finally:
        shutil.move(kept, archive)


def test_splits_have_the_judged_queries(source):
    assert list(source.splits()) == ALL
    assert source.queries("train") == {str(100 + row): question(row) for row in range(11)}
    assert source.queries("train_all") == {str(100 + row): question(row) for row in range(12)}
    assert source.judgements("train") == {str(100 + row): {str(row): 1} for row in range(11)}
    assert source.judgements("train_all") is None
    assert list(source.queries("dev")) == [str(100 + row) for row in range(12, 17)]
    assert source.judgements("dl19") == {str(100 + row): {str(row): 2, "1": 0} for row in range(18, 21)}
    assert list(source.queries("dl20")) == [str(100 + row) for row in range(22, 25)]
    with pytest.raises(UserError, match=r"data.split=test: msmarco has train, train_all, dev, dl19, dl20"):
        source.queries("test")


def test_only_the_files_of_the_splits_are_asked_for(irds):
    keys = [file.listed[1] for file in MsMarco(["dev"])._downloads()]
    assert set(keys) == {"collectionandqueries"}
    assert len(MsMarco(["dev", "dl19"]).digest()) == 32
    assert MsMarco(["dev"]).digest() != MsMarco(["dev", "dl19"]).digest()


def test_titles_come_from_a_file_in_the_collections_order(irds, tmp_path):
    titles = tmp_path / "para.title.txt"
    titles.write_text("0\tZero\n2\t-\n4\tFour\n")
    source = MsMarco(["dev"], titles=True, title_file=titles)
    assert [passage.title for passage in source.passages()][:6] == ["Zero", "", "", "", "Four", ""]
    assert source.digest() != MsMarco(["dev"]).digest()
    titles.write_text("4\tFour\n0\tZero\n")
    with pytest.raises(UserError, match=r"para.title.txt: the title of passage '0' is not in the collection's order"):
        list(source.passages())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": ["train", "test"]}, "data.splits: train, train_all, dev, dl19, dl20 are there, found train, test"),
        ({"splits": ["dev"], "titles": True}, "data.titles=true: MS MARCO's passages have no titles; data.title_file="),
        ({"splits": ["dev"], "titles": True, "title_file": "/none"}, "data.title_file=/none: there is no such file"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(settings, message):
    with pytest.raises(UserError) as caught:
        MsMarco(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_an_archive_that_breaks_off_is_told(irds, tmp_path, part):
    archive = irds / "msmarco-passage" / "collectionandqueries.tar.gz"
    whole = archive.read_bytes()
    try:
        archive.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(
            UserError, match=r"collectionandqueries.tar.gz: [\d,]+ bytes, [\d,]+ expected .*half a download"
        ):
            list(MsMarco(["dev"]).passages())
        with pytest.raises(UserError, match=r"collectionandqueries.tar.gz: cannot be read \(.*half a download"):
            list(MsMarco(["dev"], verify=False).passages())
        archive.write_bytes(tar_gz(tmp_path / "other.tar.gz", {"readme.txt": "no"}).read_bytes())
        with pytest.raises(UserError, match=r"collection.tsv is not in it"):
            list(MsMarco(["dev"], verify=False).passages())
    finally:
        archive.write_bytes(whole)


def test_half_a_judgement_file_is_told(irds):
    path = irds / "msmarco-passage" / "train" / "qrels"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:20])
        with pytest.raises(UserError, match=r"train/qrels: 20 bytes, \d+ expected"):
            MsMarco(["train"]).queries("train")
    finally:
        path.write_bytes(whole)


def test_a_collection_opens_whole_and_limited(source, tmp_path):
    whole = open_collection(source, "dev", tmp_path / "whole", titles=False)
    limit = {"queries": 2, "passages": 15}
    limited = open_collection(source, "dev", tmp_path / "limited", titles=False, limit=limit)
    chosen = open_collection(source, "dev", tmp_path / "whole", titles=False, limit=limit)
    assert whole.passages.texts(range(PASSAGES)) == texts()
    assert limited.passages.digest == chosen.passages.digest
    assert (limited.queries, limited.judgements) == (chosen.queries, chosen.judgements)
    assert len(limited.passages) == 15
    assert (
        len(list((tmp_path / "limited" / "passages").iterdir())) == 2
    )  # the part, and what is absent; never the whole


REAL = os.environ.get("RETRIEVAL_KD_MSMARCO")


@pytest.mark.skipif(not REAL, reason="RETRIEVAL_KD_MSMARCO names no folder with MS MARCO's queries and judgements")
def test_the_real_queries_and_judgements(tmp_path):
    """In a process of its own, for it has a home of its own."""
    import subprocess
    import sys

    real, folder = Path(REAL or ""), tmp_path / "msmarco-passage"
    queries = {part: (real / f"queries.{part}.tsv").read_text() for part in ("dev.small", "dl19", "dl20")}
    dev = (real / "qrels.dev.small.trec").read_text().replace(" ", "\t")
    collection = "".join(
        f"{row}\tpassage {row}\n" for row in sorted({int(line.split()[2]) for line in dev.splitlines()})
    )
    tar_gz(
        folder / "collectionandqueries.tar.gz",
        {"collection.tsv": collection, "queries.dev.small.tsv": queries["dev.small"], "qrels.dev.small.tsv": dev},
    )
    for year in ("19", "20"):
        (folder / f"trec-dl-20{year}").mkdir()
        shutil.copy(real / f"qrels.dl{year}-passage.trec", folder / f"trec-dl-20{year}" / "qrels")
    (folder / "trec-dl-2019" / "queries.tsv").write_text(queries["dl19"])
    (folder / "trec-dl-2020" / "queries.tsv.gz").write_bytes(gzip.compress(queries["dl20"].encode()))
    code = (
        "from retrieval_kd.data.msmarco import MsMarco\n"
        "source = MsMarco(['dev', 'dl19', 'dl20'], verify=False)\n"
        "assert len(source.digest()) == 32\n"
        "print([len(source.queries(split)) for split in source.splits()],"
        " [sum(map(len, source.judgements(split).values())) for split in source.splits()])\n"
    )
    environment = os.environ | {"IR_DATASETS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[6980, 43, 54] [7437, 9260, 11386]"


def test_the_terms_are_told_whatever_is_read_first(irds, monkeypatch):
    told = []
    monkeypatch.setattr("retrieval_kd.data.catalogue.fetch", lambda *arguments: told.append(arguments[-1]))
    MsMarco(["dev"]).queries("dev")
    assert told == [TERMS]
