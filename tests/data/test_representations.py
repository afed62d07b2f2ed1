import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.representations import TENSORS, StoredRepresentations, write_representations


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return {
        "mask": generator.integers(0, 2, (10, 3)).astype(bool),
        "tokens": generator.standard_normal((10, 3, 5)).astype(np.float16),
        "lengths": np.arange(10),
        "vectors": generator.standard_normal((10, 7)).astype(np.float32),
    }


def chunks(arrays, size):
    for start in range(0, 10, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


IDS = [f"p\n{n}" for n in range(10)]


@pytest.mark.parametrize("size", [1, 4, 10])
def test_what_is_written_is_read(arrays, size, tmp_path):
    stored = write_representations(tmp_path / "r", IDS, chunks(arrays, size), "student 7", Side.PASSAGE)
    again = StoredRepresentations.open(tmp_path / "r")
    peer = load_file(tmp_path / "r" / TENSORS)  # the library's reader agrees
    assert again.ids == stored.ids == IDS
    assert len(again) == 10
    assert (again.fingerprint, again.side) == ("student 7", Side.PASSAGE)
    assert set(again.arrays) == set(arrays) == set(peer)
    for name, array in arrays.items():
        assert isinstance(again.arrays[name], np.memmap)
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)
        np.testing.assert_array_equal(peer[name], array)


def test_takes_what_a_student_gives(tmp_path):
    vectors = torch.arange(12.0).view(6, 2)
    parts = ({"vectors": part} for part in vectors.split(4))
    stored = write_representations(tmp_path / "r", list("abcdef"), parts, "f", Side.QUERY)
    np.testing.assert_array_equal(stored.arrays["vectors"], vectors.numpy())


def test_no_texts(tmp_path):
    stored = write_representations(tmp_path / "r", [], [{"vectors": np.empty((0, 4), np.float32)}], "f", Side.QUERY)
    assert len(stored) == 0
    assert stored.ids == []
    assert stored.arrays["vectors"].shape == (0, 4)


@pytest.mark.parametrize(
    ("ids", "change", "message"),
    [
        (IDS[:9], None, "more than 9 rows for 9 ids"),
        ([*IDS, "more"], None, "10 rows for 11 ids"),
        (IDS, {"vectors": np.zeros((2, 8), np.float32)}, "after chunks of"),
        (IDS, {"vectors": np.zeros((2, 7), np.float64)}, "after chunks of"),
        (IDS, {"lengths": np.zeros(1, np.int64)}, r"number of rows: \[1, 2\]"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(arrays, ids, change, message, tmp_path):
    parts = list(chunks(arrays, 4))
    parts[-1].update(change or {})
    with pytest.raises(ValueError, match=message):
        write_representations(tmp_path / "r", ids, parts, "f", Side.QUERY)
    assert not list(tmp_path.iterdir())


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a folder of representations"):
        StoredRepresentations.open(tmp_path)
