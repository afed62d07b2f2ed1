"""Jobs that differ by their seed alone are one line; the best comes first."""

import math

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.parallel_coordinates import FAN, _fanned, axes_of, key_axis
from retrieval_kd.evaluation.sweeps import Ran, as_json, as_markdown, gather

CELL, OTHER = "docs/test ndcg@10", "docs/test recall@100"


def ran(number, value, cost=None, **said):
    said = {key.replace("__", "."): str(given) for key, given in said.items()}
    return Ran(number, said, f"runs/{number}", {CELL: value, OTHER: 1 - value}, {"train_seconds": 10, **(cost or {})})


JOBS = [
    ran(0, 0.5, optimizer__lr="1e-4", seed=1, student="dense"),
    ran(1, 0.6, optimizer__lr="1e-4", seed=2, student="dense"),
    ran(2, 0.9, optimizer__lr="1e-2", seed=1, student="dense"),
    ran(3, 0.7, optimizer__lr="1e-2", seed=2, student="dense", cost={"flops": 3.0}),
    ran(4, 0.1, optimizer__lr="1.0", seed=1, student="dense", cost={"flops": 2.0}),
]


def test_seeds_are_one_setting_and_the_best_is_first():
    swept = gather(JOBS, None, "maximize")
    assert swept.keys == ("optimizer.lr",)
    assert swept.titles == ["lr"]
    assert [(one.said, [job.number for job in one.jobs]) for one in swept.settings] == [
        ({"optimizer.lr": "1e-2"}, [2, 3]),
        ({"optimizer.lr": "1e-4"}, [0, 1]),
        ({"optimizer.lr": "1.0"}, [4]),
    ]
    assert gather(JOBS, "recall@100", "maximize").settings[0].said["optimizer.lr"] == "1.0"
    assert gather(JOBS, CELL, "minimize").settings[0].said["optimizer.lr"] == "1.0"


def test_a_setting_that_is_drawn_again_is_no_other_seed():
    again = Ran(7, JOBS[4].said, JOBS[4].folder, JOBS[4].values, JOBS[4].cost)
    assert gather([*JOBS, again], None, "maximize") == gather(JOBS, None, "maximize")


def test_the_table():
    lines = as_markdown(gather(JOBS, None, "maximize"), "sweep x", ["a note"]).splitlines()
    assert lines[0] == "# sweep x"
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        *("lr", "seeds", "ndcg@10", "recall@100", "train s", "FLOPS"),
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:7]]
    assert rows[0] == ["1e-2", "2", "0.8000 ± 0.1414", "0.2000 ± 0.1414", "10", ""]  # one seed has no FLOPS
    assert rows[2] == ["1.0", "1", "0.1000", "0.9000", "10", "2.00"]
    assert lines[8] == "docs/test; best ndcg@10 first; ± is the deviation over seeds."
    assert lines[9] == "a note"


def test_json_says_the_same():
    found = as_json(gather(JOBS, None, "maximize"))
    assert found["measure"] == CELL
    best = found["settings"][0]
    assert best["cells"][CELL] == {"value": 0.8, "deviation": pytest.approx(0.141421), "seeds": [0.9, 0.7]}
    assert best["jobs"][1] == {"number": 3, "seed": "2", "folder": "runs/3"}
    assert found["settings"][2]["cells"][CELL]["deviation"] is None


def test_a_job_without_the_measure_comes_last():
    lost = Ran(9, {"optimizer.lr": "5"}, "runs/9", {"docs/test mrr@10": 0.3}, {})
    swept = gather([lost, *JOBS], CELL, "maximize")
    assert swept.settings[-1].jobs == (lost,)
    assert math.isnan(swept.settings[-1].mean(CELL))
    assert as_markdown(swept, "x", [])


def test_measures_that_are_not_there():
    with pytest.raises(UserError, match=r"sweep.measure=mrr@10: it was not measured; there are docs/test ndcg@10"):
        gather(JOBS, "mrr@10", "maximize")
    with pytest.raises(UserError, match="nothing was measured"):
        gather([Ran(0, {}, "x", {}, {})], None, "maximize")


def test_axes():
    lr, quality = axes_of(gather(JOBS, None, "maximize"))
    assert lr.places == (0.5, 0.0, 1.0)  # by the logarithm, in the order of the settings
    assert lr.ticks == ((0.0, "0.0001"), (0.5, "0.01"), (1.0, "1"))
    assert quality.places == (1.0, pytest.approx(0.45 / 0.7), 0.0)
    assert key_axis("k", ["1", "3", "2"]).places == (0.0, 1.0, 0.5)
    assert key_axis("k", ["a", "b", "a"]).places == (0.0, 1.0, 0.0)
    assert key_axis("k", ["0", "10"]).places == (0.0, 1.0)
    assert key_axis("k", ["null", "1"]).ticks == ((0.0, "null"), (1.0, "1"))
    assert key_axis("k", ["nan", "1"]).ticks == ((0.0, "nan"), (1.0, "1"))
    assert key_axis("k", ["4", "4"]).places == (0.5, 0.5)
    assert len(key_axis("k", [str(value) for value in range(50)]).ticks) == 8


def test_ticks_do_not_lie_on_each_other():
    ticks = key_axis("k", ["0", "0.01", "0.5", "0.52", "1"]).ticks
    assert [text for _, text in ticks] == ["0", "0.5", "1"]


def test_lines_through_one_value_are_side_by_side_the_best_on_top():
    heights = _fanned([0.0, 1.0, 0.0, 0.0], order=[3, 1, 0, 2])
    assert heights[3] < heights[0] == 0.0 < heights[2]
    assert heights[1] == 1.0
    assert heights[2] - heights[3] < FAN


@pytest.mark.slow
def test_the_plot_says_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    from retrieval_kd.evaluation.parallel_coordinates import parallel_plot

    png, svg = parallel_plot(gather(JOBS, None, "maximize"), "sweep <x>", "a note", tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for words in ("sweep &lt;x&gt;", "a note", "lr", "ndcg@10", "0.0001", "0.8"):
        assert words in text
    assert parallel_plot(gather(JOBS, None, "maximize"), "sweep <x>", "a note", tmp_path)[1].read_text() == text
