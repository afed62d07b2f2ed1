"""A report holds what it is about, loads nothing, runs nothing, and shows a browser what it holds."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from run_case import go

from retrieval_kd.pipeline.report import write_report

EVIL = "<script>document.title='it ran'</script><img src=http://example.org/x onerror=\"document.title='it ran'\">"
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NEEDS_BROWSER = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome on this machine (Debian: apt-get install chromium)"
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page whose tags are all closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.ids = [], [], [], {}
        self.attributes = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids |= {value: tag for name, value in attributes if name == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def checked(path):
    """A page that is well formed and asks for nothing."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {"script", "link", "iframe", "object", "img"}.isdisjoint(page.tags)
    assert [value for name, value in page.attributes if name in ("src", "data", "action")] == []
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    return page


@pytest.fixture(scope="module")
def evil(things, tmp_path_factory):
    """The collection with a text that wants to run, in a query and in the passage that answers it."""
    folder = tmp_path_factory.mktemp("evil") / "evil"
    shutil.copytree(things, folder)
    for name in ("corpus.jsonl", "queries.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for line in lines:
            line["text"] += f" {EVIL}"
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs(evil, small, tmp_path_factory):
    """BM25 and a student that knows nothing, which find different things."""
    place = tmp_path_factory.mktemp("runs")
    said = (*small, f"data.path={evil}", f"store={place / 'store'}")
    return [go(*said, f"experiment={name}", f"output_dir={place / name}") for name in ("bm25", "untrained")]


@pytest.mark.slow
def test_runs_side_by_side(runs, tmp_path):
    target = write_report(runs, tmp_path / "both.html")
    page = checked(target)
    assert {"tables", "queries", "configurations"} <= set(page.ids)
    assert {"curves", "scores"}.isdisjoint(page.ids)  # nothing was trained
    assert EVIL not in target.read_text()
    for folder in runs:
        metrics = json.loads((folder / "metrics.json").read_text())["collections"]["evil/test"]["measures"]
        assert f"{metrics['ndcg@10']:.3f}" in page.text
        resolved = (folder / "resolved.yaml").read_text()
        assert html.escape(resolved.rstrip("\n")) in target.read_text()  # the whole of it
    assert target.stat().st_size < 200_000


def test_wins_and_losses_have_their_texts(runs, tmp_path):
    """The three worst queries of a student that knows nothing, and no win, for it has none; the other way round too."""
    from retrieval_kd.evaluation.per_query import read_per_query

    values = [read_per_query(folder / "per_query.parquet", "evil", "test", "ndcg@10") for folder in runs]
    differences = sorted(values[1][query] - values[0][query] for query in values[0])
    assert differences[-1] < 0
    for given, sign in ((runs, 1), (runs[::-1], -1)):
        page = checked(write_report(given, tmp_path / "both.html"))
        shown = [f"{sign * difference:+.3f} (" for difference in differences[:3]]
        assert all(one in page.text for one in shown)
        assert len(re.findall(r"[+-]\d\.\d{3} \(", page.text)) == 3
        assert EVIL in page.text  # a reader sees it


def test_without_the_store_ids_stand_for_texts(runs, tmp_path):
    copies = [shutil.copytree(folder, tmp_path / folder.name) for folder in runs]
    for folder in copies:
        resolved = yaml.safe_load((folder / "resolved.yaml").read_text())
        (folder / "resolved.yaml").write_text(yaml.safe_dump(resolved | {"store": str(tmp_path / "gone")}))
    page = checked(write_report(copies, tmp_path / "page.html"))
    assert "The texts are not on this machine" in page.text
    assert EVIL not in page.text


@pytest.mark.slow
def test_a_training_has_curves_and_scores_by_role(trained, tmp_path):
    target = write_report([trained], tmp_path / "page.html")
    page = checked(target)
    assert {"tables", "curves", "scores", "configurations"} <= set(page.ids)
    assert page.tags.count("svg") >= 4
    assert re.search(r"minilm \(similarity\), [1-9]", page.text)
    for role in ("positive", "hard"):
        assert re.search(rf"{role}: [1-9]", page.text)
    shutil.copytree(trained, tmp_path / "copy")
    assert write_report([tmp_path / "copy"]) == tmp_path / "copy" / "report.html"


def test_histograms_count_every_score(trained):
    from retrieval_kd.pipeline.report_rows import read
    from retrieval_kd.pipeline.report_scores import histograms

    report = read([trained])
    found = histograms(report.rows)
    steps = [step["digest"] for step in report.rows[0].manifest["steps"] if step["step"] == "score"]
    store = report.rows[0].resolved["store"]
    scores = [np.load(f"{store}/score/{digest}/scores.npy") for digest in steps]
    assert len(found.drawn) == sum(len(one) for one in scores)
    for _, axes, series in found.drawn:
        counted = sum(int(one.name.rpartition(": ")[2].replace(",", "")) for one in series)
        assert f"{counted:,} scores" in axes.title
        assert counted in [int(np.isfinite(member).sum()) for one in scores for member in one]
        assert all(sum(one.y) == pytest.approx(2) for one in series)  # each bin is drawn by both of its edges


@pytest.mark.slow
def test_a_table_and_what_is_no_table(command, small, tmp_path):
    folder = tmp_path / "experiments" / "pair"
    folder.mkdir(parents=True)
    rows = {
        "BM25": {"experiment": "bm25", "published": {"things/test ndcg@10": {"value": 0.4, "source": "<b>us</b>"}}},
        "untrained": {"experiment": "untrained", "control": "BM25"},
    }
    content = {
        "title": "Two <rows>",
        "columns": ["things/test ndcg@10"],
        "seeds": {"quick": [1]},
        "overrides": {"all": list(small)},
        "rows": rows,
    }
    (folder / "table.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    code, _, errors = command("report", "pair")
    assert code == 2
    assert errors == [
        "error: pair: neither a table's folder (it holds table.json) nor a run's (metrics.json, manifest.json)"
    ]
    assert command("table", "pair")[0] == 0
    code, out, _ = command("report", "pair")
    assert (code, out) == (0, "outputs/tables/pair/report.html\n")
    page = checked(tmp_path / "outputs/tables/pair/report.html")
    assert "Two <rows>" in page.text
    assert "<b>us</b>" in page.text
    assert "untrained against BM25" in page.text
    assert "retrieval-kd train scale=quick experiment=untrained" in page.text
    found = json.loads((tmp_path / "outputs/tables/pair/table.json").read_text())
    assert all(cell in page.text for line in found["shown"]["cells"] for cell in line)

    assert command("report")[2] == ["error: report needs a table or folders of runs: retrieval-kd report quickstart"]
    assert command("report", "pair", "measure=x")[2] == ["error: measure=x: report takes folders and output=FILE"]
    assert "output=experiments is a folder" in command("report", "pair", "output=experiments")[2][0]
    table = tmp_path / "outputs/tables/pair/table.json"
    del found["shown"]
    table.write_text(json.dumps(found))
    assert "bring the table up to date first, another version wrote it" in command("report", "pair")[2][0]


@pytest.mark.slow
@NEEDS_BROWSER
def test_in_a_browser(evil, small, command, tmp_path):
    """All is there, the console is silent, what wants to run does not; ``KEEP_SCREENSHOT=FILE`` keeps a picture."""
    folder = tmp_path / "experiments" / "seen"
    folder.mkdir(parents=True)
    rows = {
        "BM25": {"experiment": "bm25"},
        "untrained": {"experiment": "untrained", "control": "BM25"},
        "hard labels": {"experiment": "contrastive", "control": "untrained"},
        "KL": {"experiment": "plain_kl", "control": "hard labels", "overrides": ["trainer.log_every=1"]},
    }
    overrides = [*small, f"data.path={evil}", f"store={tmp_path / 'store'}", "teacher=pointwise"]
    overrides += [
        "trainer.max_steps=8",
        "trainer.epochs=3",
        "scorer@teacher.scorer=bm25",
        "evaluation.latency={clients:[1],passes:1,queries:8,depth:5}",
    ]
    content = {"title": "Seen", "columns": ["evil/test ndcg@10"], "seeds": {"quick": [1, 2]}, "rows": rows}
    (folder / "table.yaml").write_text(yaml.safe_dump(content | {"overrides": {"all": overrides}}, sort_keys=False))
    assert command("table", "seen")[0] == 0
    assert command("report", "seen")[0] == 0
    path = tmp_path / "outputs/tables/seen/report.html"
    checked(path)
    unfolded = tmp_path / "unfolded.html"  # what is folded is not in a picture
    unfolded.write_text(path.read_text().replace("<details", "<details open"))
    shot = tmp_path / "report.png"
    dom, told = _browse(unfolded, tmp_path, "--dump-dom")
    assert [line for line in told.splitlines() if "CONSOLE" in line] == []
    page = Page(dom.partition(">")[2])
    assert {"tables", "curves", "scores", "pareto", "queries", "configurations"} <= set(page.ids)
    assert page.tags.count("svg") > 5
    assert "script" not in page.tags
    assert EVIL in page.text
    assert "<title>Seen</title>" in dom
    assert "it ran</title>" not in dom
    _browse(unfolded, tmp_path, f"--screenshot={shot}", "--window-size=1500,6000")
    assert shot.stat().st_size > 20_000
    if kept := os.environ.get("KEEP_SCREENSHOT"):
        shutil.copy(shot, kept)


@pytest.mark.slow
@NEEDS_BROWSER
def test_the_console_is_heard(tmp_path):
    """The check itself, on a page that has something to say and runs it."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><title>quiet</title><script>console.error('heard'); document.title='it ran'</script>"
    )
    dom, told = _browse(page, tmp_path, "--dump-dom")
    assert [line for line in told.splitlines() if "CONSOLE" in line and "heard" in line]
    assert "<title>it ran</title>" in dom


def _browse(page, tmp_path, *arguments):
    """What a headless browser prints, and what it tells beside."""
    said = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'b'}",
    ]
    found = subprocess.run(
        [BROWSER, *said, "--virtual-time-budget=2000", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return found.stdout, found.stderr
