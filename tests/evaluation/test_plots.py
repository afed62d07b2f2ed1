"""What a plot shows: every point by name, nothing on top of another, the same file each time."""

import builtins
from itertools import combinations

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.pareto import Point
from retrieval_kd.evaluation.plots import About, pareto_plot

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow

ABOUT = About("A <study>", "docs/test ndcg@10", 1484, "2 cores, x86_64, cpu", "a note")
COSTS = ("flops", "latency_p99_ms")
SWEEP = [(0.582, 9.1), (0.579, 4.2), (0.574, 2.9), (0.571, 2.6), (0.566, 1.9), (0.556, 1.0), (0.548, 1.2), (0.51, 0.55)]
POINTS = [
    *(Point(f"weight={flops}", value, {"flops": flops}, (value - 0.018, value + 0.017)) for value, flops in SWEEP),
    Point("BM25", 0.4, {"latency_p99_ms": 1.3}),
    Point("theirs", 0.554, {"flops": 1.8}, source="a card"),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The paths and the figure of one plot."""
    from matplotlib.figure import Figure

    seen, save = [], Figure.savefig

    def savefig(self, *arguments, **more):
        seen.append(self)
        save(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        return pareto_plot(POINTS, COSTS, ABOUT, tmp_path_factory.mktemp("plot") / "new"), seen[0]


def test_files_say_what_they_show(drawn, tmp_path):
    png, svg = drawn[0]
    assert (png.name, svg.name) == ("pareto.png", "pareto.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    said = [point.name for point in POINTS]
    said += ["A &lt;study&gt;", "docs/test, 1,484 queries; 2 cores, x86_64, cpu", "ndcg@10", "a note", "95 % interval"]
    said += ["without FLOPS: BM25", "P99 latency, 1 client (ms)", "published"]
    for words in said:
        assert words in text
    again = pareto_plot(POINTS, COSTS, ABOUT, tmp_path / "again")[1]
    assert again.read_text() == text


def test_labels_lie_on_no_other_and_in_their_panel(drawn):
    from matplotlib.text import Text

    panel = drawn[1].axes[0]
    renderer = drawn[1].canvas.get_renderer()
    texts = {text.get_text(): text for text in panel.texts}
    assert sorted(texts) == sorted(point.name for point in POINTS if "flops" in point.costs)
    frame = panel.get_window_extent(renderer)
    boxes = {name: Text.get_window_extent(text, renderer) for name, text in texts.items()}  # without the line to it
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    for name, box in boxes.items():
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, name
        for point in POINTS[:8]:
            x, y = panel.transData.transform((point.costs["flops"], point.quality))
            assert not box.contains(x, y), (name, point.name)


def test_what_is_drawn_are_the_numbers(drawn):
    panel, other = drawn[1].axes
    kinds = {handle.get_label(): handle for handle in panel.containers}
    front, published = kinds["front: no measured point beats it"], kinds["published"]
    assert list(zip(*front.lines[0].get_data(), strict=True)) == sorted(
        ((flops, value) for value, flops in SWEEP if flops != 1.2)
    )
    assert published.lines[0].get_data() == ([1.8], [0.554])
    assert published.lines[0].get_markerfacecolor() == "white"
    lower, upper = front.lines[2][0].get_segments()[0]
    assert (lower[1], upper[1]) == pytest.approx((0.51 - 0.018, 0.51 + 0.017))
    assert panel.get_xscale() == "log"
    assert other.get_xscale() == "linear"


def test_a_plot_of_nothing_and_without_matplotlib_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="none of the 1 points has a cost to plot: flops"):
        pareto_plot([Point("BM25", 0.4, {})], ["flops"], ABOUT, tmp_path)
    imported = builtins.__import__

    def without(name, *arguments, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install retrieval-kd\[plots\]"):
        pareto_plot(POINTS, COSTS, ABOUT, tmp_path)
    assert list(tmp_path.iterdir()) == []
