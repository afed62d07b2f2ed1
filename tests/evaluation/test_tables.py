"""Whether a row does what was expected of it, and what a table file may say."""

import copy

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.significance import corrected, paired
from retrieval_kd.evaluation.table_forms import as_html, as_latex, as_markdown
from retrieval_kd.evaluation.table_spec import at_scale, read_spec
from retrieval_kd.evaluation.tables import Row, Status, as_json, reconstruction_notes, shown, status

CELL, OTHER = "docs/test ndcg@10", "docs/test mrr@10"
CONTENT = {
    "title": "A <table>",
    "columns": [CELL, OTHER],
    "seeds": {"quick": [1], "small": [1, 2]},
    "overrides": {"all": ["data=python_docs"]},
    "tolerances": {"near": 0.02},
    "data": {"quick": {"docs/test": "abc"}},
    "exceptions": {"few steps": {"tolerance": 0.1, "why": "it ends before it settles"}},
    "references": {"theirs & co": {"big/dev mrr@10": {"value": 0.33, "source": "a paper, table 2"}, CELL: "not found"}},
    "hardware": {"quick": "two cores"},
    "hours": {"quick": 0.2},
    "rows": {
        "base": {"experiment": "bm25"},
        "ours": {
            "experiment": "plain_kl",
            "control": "base",
            "expected": {"quick": {CELL: {"value": 0.5, "tolerance": "near"}}},
            "published": {CELL: {"value": 0.55, "source": "a paper"}},
        },
    },
}


def row(value, name="ours", other_data=False, seeds=(1,)):
    spec = read_spec(CONTENT, "table.yaml")
    values = {} if value is None else {CELL: [value] * len(seeds)}
    return Row(next(one for one in spec.rows if one.name == name), seeds, values, {}, other_data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, Status.OK),
        (0.52, Status.OK),  # .52 - .5 is a little more than .02 in floating point
        (0.48, Status.OK),
        (0.5201, Status.OKISH),
        (0.9, Status.OKISH),
        (0.4799, Status.OKISH),
        (0.46, Status.OKISH),
        (0.4599, Status.FAIL),
        (0.1, Status.FAIL),
        (None, Status.NONE),
    ],
)
def test_status_by_tolerance(value, expected):
    assert status(read_spec(CONTENT, "t"), "quick", row(value), CELL) is expected


def test_status_without_expectation_and_on_other_data():
    spec = read_spec(CONTENT, "t")
    assert status(spec, "small", row(0.1), CELL) is Status.NONE
    assert status(spec, "quick", row(0.1), OTHER) is Status.NONE
    assert status(spec, "quick", row(0.1, "base"), CELL) is Status.NONE
    assert status(spec, "quick", row(0.1, other_data=True), CELL) is Status.OTHER_DATA


def test_json_form():
    spec = read_spec(CONTENT, "t")
    ours, base = row(0.48), row(0.3, "base")
    values = [{f"q{query}": query / 100 + shift for query in range(40)} for shift in (0.18, 0.0)]
    (ours.against[CELL],) = corrected([paired(*values, ("ours", "base"))])
    ours.cost["train_seconds"] = 3.2
    table = as_json(spec, "quick", [base, ours], {"commit": "c"})
    assert (table["scale"], table["commit"], table["columns"]) == ("quick", "c", [CELL, OTHER])
    first, second = table["rows"]
    assert set(first) == {"name", "experiment", "commands", "cells", "cost"}
    nothing = dict.fromkeys(("deviation", "published", "expected", "against"))
    assert first["cells"] == {CELL: {"value": 0.3, "seeds": [0.3], "status": "", **nothing}}
    assert table["published"] == [
        {"system": "ours", "cell": CELL, "value": 0.55, "source": "a paper"},
        {"system": "theirs & co", "cell": "big/dev mrr@10", "value": 0.33, "source": "a paper, table 2"},
        {"system": "theirs & co", "cell": CELL, "value": None, "source": "not found"},
    ]
    assert table["statistics"] == {"correction": "Holm", "level": 0.05, "power": 0.8}
    cell = second["cells"][CELL]
    assert (cell["published"], cell["expected"]) == (
        {"value": 0.55, "source": "a paper"},
        {"value": 0.5, "tolerance": "near"},
    )
    assert (cell["status"], cell["against"]["row"], second["cost"]) == ("OK", "base", {"train_seconds": 3.2})
    assert cell["against"]["difference"] == pytest.approx(0.18)
    low, high = cell["against"]["interval"]
    assert low <= 0.18 <= high
    assert 0 < cell["against"]["p"] < 0.001
    assert cell["against"]["detectable"] == pytest.approx(0, abs=1e-6)  # every query differs by the same


def test_seeds_are_aggregated():
    spec = read_spec(CONTENT, "t")
    ours = Row(spec.rows[1], (1, 2, 3), {CELL: [0.4, 0.5, 0.6]}, {}, False)
    (found,) = as_json(spec, "quick", [ours], {})["rows"]
    assert found["cells"][CELL]["value"] == pytest.approx(0.5)
    assert found["cells"][CELL]["deviation"] == pytest.approx(0.1)
    assert found["cells"][CELL]["seeds"] == [0.4, 0.5, 0.6]
    assert "0.500 ± 0.100" in as_markdown(shown(spec, "quick", [ours], []))


@pytest.mark.parametrize(("value", "expected"), [(0.45, "OKish"), (0.4, "OKish"), (0.39, "FAIL"), (0.49, "OK")])
def test_a_known_deviation_is_no_failure_and_says_why(value, expected):
    content = copy.deepcopy(CONTENT)
    content["rows"]["ours"]["expected"]["quick"][CELL]["exception"] = "few steps"
    spec = read_spec(content, "t")
    ours = Row(spec.rows[1], (1,), {CELL: [value]}, {}, False)
    assert status(spec, "quick", ours, CELL) == expected
    notes = shown(spec, "quick", [ours], []).notes
    leaning = [f"Known deviation few steps (ours, {CELL}): it ends before it settles"]
    assert notes == (leaning if expected == "OKish" else [])
    assert as_json(spec, "quick", [ours], {})["rows"][0]["cells"][CELL]["expected"]["exception"] == "few steps"


def test_every_form_shows_the_same_cells():
    spec = read_spec(CONTENT, "t")
    rows = [row(0.3, "base"), row(0.1, seeds=(1, 2))]
    rows[1].commands = ("retrieval-kd train a='<b>'", "retrieval-kd train 2")
    table = shown(spec, "quick", rows, ["a <note>"])
    text, page, paper = as_markdown(table), as_html(table), as_latex(table)
    header, _, base, ours = [line for line in text.partition("##")[0].splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.split("|")][1:5] == ["row", "ndcg@10", "mrr@10", "published"]
    cells = [cell.strip() for cell in ours.split("|")][1:-1]
    assert cells[:6] == ["ours", "0.100 ± 0.000", "", "0.550", "0.500", "FAIL"]
    assert {len(line) for line in (header, base, ours)} == {len(header)}
    assert all(f"<td>{cell}</td>" in page for cell in cells)
    assert "A &lt;table&gt;" in page
    assert "a &lt;note&gt;" in page
    assert text.startswith("# A <table>\n\n|")
    assert "\na <note>\n" in text
    (line,) = [line for line in paper.partition("% published")[0].splitlines() if line.startswith("ours & ")]
    assert line.startswith(r"ours & 0.100 $\pm$ 0.000 &  & 0.550 & 0.500 & FAIL")
    assert line.endswith(r" \\")
    assert line.count(" & ") == header.count("|") - 2
    assert paper.count(r"\toprule") == paper.count(r"\end{tabular}") == 2
    assert r"theirs \& co & big/dev mrr@10 & 0.33 & a paper, table 2" in paper
    for form, wanted in (
        (text, "a='<b>'"),
        (page, "a=&#x27;&lt;b&gt;&#x27;"),
        (paper, "%   retrieval-kd train a='<b>'"),
    ):
        assert wanted in form
        assert "theirs" in form
        assert "not found" in form
    assert page.count("<details") == 1  # a row without commands has none


def test_reconstructions_are_marked_in_every_form():
    spec, rows = read_spec(CONTENT, "t"), [row(0.3, "base"), row(0.1)]
    assert reconstruction_notes(rows) == []
    rows[1].reconstructions = {"filter": "reconstruction; of a paper"}
    (note,) = reconstruction_notes(rows)
    mark = note.split()[0]
    assert "filter" in note
    told = shown(spec, "quick", rows, [note])
    text, page, paper = as_markdown(told), as_html(told), as_latex(told)
    assert f"ours {mark} & " in paper
    assert f"| ours {mark} " in text
    assert f"<td>ours {mark}</td>" in page
    assert "<td>base</td>" in page
    first, second = as_json(spec, "quick", rows, {})["rows"]
    assert "reconstructions" not in first
    assert (second["name"], second["reconstructions"]) == ("ours", {"filter": "reconstruction; of a paper"})


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["rows", "ours", "control"], "absent", "rows.ours.control: there is no row 'absent'"),
        (["rows", "ours", "control"], "ours", "rows.ours.control: a row is no control of itself"),
        (["rows", "ours", "experiment"], None, "rows.ours: it names no experiment"),
        (["rows", "ours", "expects"], {}, "rows.ours: unknown key 'expects'"),
        (["rows", "ours"], "bm25", "rows.ours: a mapping with the key experiment expected"),
        (["rows"], ["ours"], "rows: a mapping expected"),
        (["rows"], {}, "rows, columns and seeds must not be empty"),
        (["rows", "ours", "overrides"], "seed=1", "rows.ours.overrides: a list expected"),
        (
            ["rows", "ours", "expected", "quick", CELL],
            {"tolerance": "near"},
            f"{CELL}: a tolerance without an expected",
        ),
        (["rows", "ours", "expected", "quick", CELL], {"value": 0.5}, f"quick.{CELL}: {{value, tolerance}}"),
        (["rows", "ours", "expected", "quick", CELL, "exception"], "luck", "no exception 'luck'; there are: few steps"),
        (["exceptions", "few steps"], {"tolerance": 0.1}, "exceptions.few steps: {tolerance, why} expected"),
        (["references", "base"], {CELL: {"value": 1, "source": "x"}}, "references.base: there is a row of this name"),
        (["references", "x"], {CELL: {"value": 1}}, f"references.x.{CELL}: a published number needs its source"),
        (["rows", "ours!"], {"experiment": "bm25"}, "rows.ours!: its folder would be that of 'ours'"),
        (["hours", "huge"], 3, "hours: no scale 'huge'; this table has quick, small"),
        (["hardware", "huge"], "x", "hardware: no scale 'huge'"),
        (["rows", "ours", "published", "docs"], {}, "published.docs: not '<collection>/<split> <measure>'"),
        (["rows", "ours", "published", CELL], {"value": "high", "source": "x"}, f"{CELL}.value: a number expected"),
        (["rows", "ours", "expected", "quick", CELL], 0.5, f"quick.{CELL}: {{value, tolerance}} expected"),
        (["rows", "ours", "expected", "quick", CELL, "tolerance"], "far", "no tolerance 'far'; there are: near"),
        (["rows", "ours", "expected", "quick", CELL, "value"], "high", f"{CELL}.value: a number expected"),
        (["rows", "ours", "expected", "quick", "docs/dev ndcg@10"], {}, "docs/dev ndcg@10: there is no such column"),
        (["rows", "ours", "expected", "huge"], {}, "expected: no scale 'huge'; this table has quick, small"),
        (["rows", "ours", "scales"], ["huge"], "rows.ours.scales: no scale 'huge'; this table has quick, small"),
        (["rows", "ours", "published", CELL], {"value": 1}, f"published.{CELL}: a published number needs its source"),
        (["tolerances", "near"], "close", "tolerances.near: a number expected, found 'close'"),
        (["seeds", "quick"], 1, "seeds.quick: a list of integers expected, found 1"),
        (["seeds", "quick"], [], "seeds.quick: a list of integers expected"),
        (["columns"], ["docs/test"], "columns: 'docs/test' is not '<collection>/<split> <measure>'"),
        (["columns"], CELL, "columns: a list expected"),
        (["colums"], [CELL], "a table has the keys"),
    ],
)
def test_mistakes_name_file_and_key(keys, value, message):
    content = copy.deepcopy(CONTENT)
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is None:
        del place[keys[-1]]
    with pytest.raises(UserError) as caught:
        read_spec(content, "table.yaml")
    assert str(caught.value).startswith("table.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, [], "x"])
def test_no_table_at_all(content):
    with pytest.raises(UserError, match=r"table\.yaml: a table has the keys"):
        read_spec(content, "table.yaml")


def test_rows_of_other_scales_are_left_out():
    content = copy.deepcopy(CONTENT)
    content["rows"]["ours"]["scales"] = ["small"]
    spec = read_spec(content, "table.yaml")
    assert [one.name for one in at_scale(spec, "quick").rows] == ["base"]
    assert [one.name for one in at_scale(spec, "small").rows] == ["base", "ours"]
