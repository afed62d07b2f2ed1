import gzip
import io

import pytest
from irds_case import tar_gz

from retrieval_kd.contracts import UserError
from retrieval_kd.data import rows
from retrieval_kd.data.rows import opened, read_rows

NAMES = ("id", "text")


def test_blocks_do_not_show(monkeypatch):
    content = "".join(f"{number}\ttext {number} é{'x' * (number % 7)}\n" for number in range(50)).encode()
    expected = [line.split("\t") for line in content.decode().splitlines()]
    for size in (1, 2, 3, 17, 1 << 20):
        monkeypatch.setattr(rows, "BLOCK_BYTES", size)
        assert list(read_rows(io.BytesIO(content), "f", NAMES)) == expected
        assert list(read_rows(io.BytesIO(content.rstrip()), "f", NAMES)) == expected


def test_further_tabs_are_text_and_empty_lines_are_none():
    content = b"1\ta\tb\n\n2\tc\n"
    assert list(read_rows(io.BytesIO(content), "f", NAMES)) == [["1", "a\tb"], ["2", "c"]]


def test_a_short_line_is_told_with_its_number(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_BYTES", 4)
    with pytest.raises(UserError, match=r"^f:3: 1 columns; expected id <tab> text$"):
        list(read_rows(io.BytesIO(b"1\ta\n2\tb\n3 c\n"), "f", NAMES))


def test_plain_files_gzipped_ones_and_members(tmp_path):
    (tmp_path / "plain.tsv").write_bytes(b"1\ta\n")
    (tmp_path / "packed.tsv.gz").write_bytes(gzip.compress(b"1\ta\n"))
    tar_gz(tmp_path / "archive.tar.gz", {"other.tsv": "2\tb\n" * 500, "wanted.tsv": "1\ta\n"})
    for name, member in {"plain.tsv": "", "packed.tsv.gz": "", "archive.tar.gz": "wanted.tsv"}.items():
        with opened(tmp_path / name, member) as stream:
            assert list(read_rows(stream, name, NAMES)) == [["1", "a"]]
    with (
        pytest.raises(UserError, match=r"archive.tar.gz: absent.tsv is not in it"),
        opened(tmp_path / "archive.tar.gz", "absent.tsv"),
    ):
        pass
