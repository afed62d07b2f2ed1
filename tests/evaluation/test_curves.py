import pytest

from retrieval_kd.evaluation.curves import draw_training, panels_of, read_curves

COLUMNS = (
    "diagnostics/kendall_tau",
    "diagnostics/teacher_entropy",
    "epoch",
    "step",
    "train/loss",
    "train/filter_share",
    "validation/ndcg@10",
    "train/filter_threshold_bm25",
    "train/filter_threshold_minilm",
)
ROWS = """
,,0,4,2.5,,,,
0.25,0.5,0,9,2.0,0.1,,14,0.5
,,0,14,nan,,0.4,,
0.5,0.75,0,19,1.5,0.2,,13,0.6
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(",".join(COLUMNS) + ROWS)
    return path


def test_curves_are_the_columns_with_values(log):
    curves = read_curves(log)
    assert curves["train/loss"] == [(4, 2.5), (9, 2.0), (19, 1.5)]
    assert curves["diagnostics/kendall_tau"] == [(9, 0.25), (19, 0.5)]
    assert "validation/ndcg@10" not in curves  # one point is no curve
    assert "epoch" not in curves


def test_each_curve_stands_in_its_panel(log):
    panels = panels_of(read_curves(log))
    assert {title: set(curves) for (title, _, _), curves in panels.items()} == {
        "Teacher's entropy": {"diagnostics/teacher_entropy"},
        "Student and teacher, list by list": {"diagnostics/kendall_tau"},
        "Threshold of the filter: bm25": {"train/filter_threshold_bm25"},
        "Threshold of the filter: minilm": {"train/filter_threshold_minilm"},
        "Own negatives that the filter dropped": {"train/filter_share"},
        "Losses": {"train/loss"},
    }


@pytest.mark.slow
def test_the_page_is_drawn_and_equal_logs_give_equal_files(log, tmp_path):
    pytest.importorskip("matplotlib")
    png, svg = draw_training(log, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert "Kendall" in text
    assert "found passages alone" not in text  # a legend is of two curves or more
    assert "Validation" not in text
    draw_training(log, tmp_path)
    assert svg.read_text() == text


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert draw_training(tmp_path / "log.csv", tmp_path) == []
    (tmp_path / "log.csv").write_text("step,train/loss\n1,2.0\n")
    assert draw_training(tmp_path / "log.csv", tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_without_matplotlib_nothing_is_drawn(log, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert draw_training(log, tmp_path) == []
