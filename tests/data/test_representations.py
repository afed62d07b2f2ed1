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
        "sizes": np.arange(10),
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


@pytest.mark.parametrize("sizes", [[0, 2, 1, 3, 0, 1], [3] * 6, [0] * 6])
@pytest.mark.parametrize("step", [1, 4])
def test_texts_of_different_sizes_lie_flat(sizes, step, tmp_path):
    """Chunks are padded to their own widest text; nothing of the padding is written."""
    generator = np.random.default_rng(0)
    terms = [generator.integers(1, 9, size).astype(np.int32) for size in sizes]
    tokens = [generator.standard_normal((size, 5)).astype(np.float16) for size in sizes]

    def parts():
        for start in range(0, 6, step):
            some = slice(start, start + step)
            width = max(map(len, terms[some])) + 1
            pad = [np.pad(one, (0, width - len(one)), constant_values=7) for one in terms[some]]
            states = [np.pad(one, ((0, width - len(one)), (0, 0)), constant_values=7) for one in tokens[some]]
            lengths = np.array(sizes[some])
            yield {"terms": np.stack(pad), "tokens": torch.from_numpy(np.stack(states)), "lengths": lengths}

    stored = write_representations(tmp_path / "r", list("abcdef"), parts(), "f", Side.PASSAGE)
    assert len(stored) == 6
    peer = load_file(tmp_path / "r" / TENSORS)
    assert set(stored.arrays) == set(peer) == {"terms", "tokens", "offsets"}
    np.testing.assert_array_equal(stored.arrays["offsets"], np.cumsum([0, *sizes]))
    for name, expected in {"terms": np.concatenate(terms), "tokens": np.concatenate(tokens)}.items():
        assert stored.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(stored.arrays[name], expected)
        np.testing.assert_array_equal(peer[name], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize(
    ("ids", "chunk", "message"),
    [
        ("abc", {"terms": np.zeros((2, 4), np.int32), "lengths": np.array([1, 4])}, "2 rows for 3 ids"),
        ("ab", {"terms": np.zeros((2, 4), np.int32), "lengths": np.array([1, 5])}, "does not hold 2 texts"),
        ("ab", {"terms": np.zeros((3, 4), np.int32), "lengths": np.array([1, 1])}, "does not hold 2 texts"),
    ],
)
def test_sizes_that_do_not_fit_leave_nothing_behind(ids, chunk, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_representations(tmp_path / "r", list(ids), [chunk], "f", Side.PASSAGE)
    assert not list(tmp_path.iterdir())


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
        (IDS, {"sizes": np.zeros(1, np.int64)}, r"number of rows: \[1, 2\]"),
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
