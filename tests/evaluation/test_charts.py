"""Charts hold their values at the right places, stay small, and pass no markup through."""

import xml.etree.ElementTree as ElementTree

import pytest

from retrieval_kd.evaluation import markup
from retrieval_kd.evaluation.charts import HEIGHT, MOST_POINTS, WIDTH, Axes, Scale, Series, chart, key, thinned


def parsed(figure):
    """An SVG within a figure is XML; anything that is not escaped would break it."""
    return ElementTree.fromstring(figure)


def test_a_line_has_its_points_between_the_axes():
    figure = parsed(chart(Axes("losses <b>"), [Series("a & b", [0, 10, 20], [3.0, 1.0, 2.0])]))
    (path,) = [one for one in figure.iter("path") if one.find("title") is not None]
    points = [tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")]
    assert path.find("title").text == "a & b"
    assert figure.find("figcaption").text == "losses <b>"
    assert len(points) == 3
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] < points[2][1] < points[1][1]  # up is less


def test_points_have_names_and_logarithms_are_even():
    scale = Scale.of([1, 10, 100], 0, 100, log=True)
    assert scale(10) - scale(1) == pytest.approx(scale(100) - scale(10))
    assert scale.ticks()[0] >= 1
    figure = parsed(chart(Axes("cost", log_x=True), [Series("p", [1, 100], [0.1, 0.2], labels=["<i>", "two"])]))
    assert [one.text for one in figure.iter("text")][-2:] == ["<i>", "two"]
    assert len(list(figure.iter("circle"))) == 2
    same = Series("p", [1, 1, 1], [0.1, 0.1, 0.1], labels=["one", "two", "three"])
    heights = [float(one.get("y")) for one in parsed(chart(Axes("cost"), [same])).iter("text")][-3:]
    assert (
        min(abs(a - b) for a, b in ((heights[0], heights[1]), (heights[1], heights[2]), (heights[0], heights[2]))) >= 10
    )


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-3.0, 1e-9], [1e6, 3e6], [0.1, 0.2, 0.3]])
def test_ticks_are_few_and_inside(values):
    scale = Scale.of(values, 10, 200, log=False)
    assert 2 <= len(scale.ticks()) <= 9
    assert all(10 <= scale(tick) <= 200 for tick in scale.ticks())


def test_long_lines_are_thinned_to_means():
    x, y = thinned(range(8000), [float(n % 100) for n in range(8000)])
    assert len(x) == len(y) == MOST_POINTS
    assert y.tolist() == [49.5] * MOST_POINTS
    assert len(chart(Axes("t"), [Series("s", list(range(8000)), [float(n) for n in range(8000)])])) < 8000
    assert chart(Axes("nothing"), []) == ""


def test_nothing_of_a_text_is_markup():
    evil = "<script>alert('x')</script>"
    said = [
        markup.table([evil], [[evil]]),
        markup.details(evil, markup.code([evil])),
        key({evil: 0}),
        markup.page(evil, []),
    ]
    for text in said:
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    assert markup.tag("a", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;"></a>'
    assert "default-src 'none'" in markup.page("t", [])
