import shutil

import pytest
from irds_case import question, text

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.lotte import SETS, Lotte


def test_a_topic_with_its_two_kinds_of_questions(irds):
    source = Lotte("writing")
    assert list(source.splits()) == ["search", "forum"]
    assert list(source.passages())[3] == Passage("3", "", f"test {text(3)}")
    assert source.queries("forum") == {str(row): question(row) for row in (1, 3, 5, 7)}
    assert source.judgements("search") == {str(row): {str(row): 1, str(row + 1): 1} for row in (0, 2, 4, 6)}
    with pytest.raises(UserError, match=r"data.split=test: writing has search, forum"):
        source.queries("test")


def test_the_development_part_has_other_passages(irds):
    assert next(iter(Lotte("writing-dev").passages())).text.startswith("dev ")
    assert Lotte("writing-dev").digest() != Lotte("writing").digest()


def test_every_set_is_known_to_ir_datasets(irds):
    import ir_datasets

    for name in SETS:
        for split in Lotte(name).splits():
            assert ir_datasets.load(Lotte(name)._of(split)).has_queries()


def test_an_archive_that_was_unpacked_half_is_told(irds):
    source = Lotte("pooled")
    source.digest()
    path = irds / "lotte" / "lotte_extracted" / "lotte" / "pooled" / "test" / "collection.tsv"
    kept = path.rename(path.with_name("kept"))
    with pytest.raises(UserError, match=r"collection.tsv: not there: .*lotte_extracted was unpacked half; delete that"):
        list(source.passages())
    kept.rename(path)


def test_half_an_archive_is_told_before_and_after_it_is_unpacked(irds):
    archive, unpacked = irds / "lotte" / "lotte.tar.gz", irds / "lotte" / "lotte_extracted"
    whole = archive.read_bytes()
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        archive.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=r"lotte.tar.gz: [\d,]+ bytes, [\d,]+ expected .*half a download"):
            Lotte("science").digest()
        assert not unpacked.exists()
        with pytest.raises(UserError, match=r"unpacked half; .*lotte.tar.gz is half a download|lotte.tar.gz: cannot"):
            Lotte("science", verify=False).digest()
    finally:
        archive.write_bytes(whole)
        shutil.rmtree(unpacked, ignore_errors=True)
    assert len(list(Lotte("science").passages())) == 12


def test_a_process_that_is_killed_while_it_unpacks_leaves_nothing_half(irds, monkeypatch):
    unpacked = irds / "lotte" / "lotte_extracted"
    shutil.rmtree(unpacked, ignore_errors=True)
    seen = []

    def killed(self, path, **_):
        (path / "lotte").mkdir()
        seen.append(unpacked.exists())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tarfile.TarFile.extractall", killed)
        with pytest.raises(KeyboardInterrupt):
            Lotte("science").digest()
    assert seen == [False]
    assert not unpacked.exists()
    assert len(list(Lotte("science").passages())) == 12


def test_an_unknown_topic():
    with pytest.raises(UserError, match=r"data.name=writting: LoTTE has no such set; did you mean writing\? There are"):
        Lotte("writting")
