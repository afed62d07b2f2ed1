import unicodedata

import pytest

from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation.answers import holds, judged_by_answers, tokens
from retrieval_kd.evaluation.measures import asks_answers, measure


def in_a_row(text, answer):
    """DPR's rule in a loop: letters, digits and marks make a word, other visible characters stand alone."""

    def words(text):
        found, word = [], ""
        for character in [*unicodedata.normalize("NFD", text), " "]:
            kind = unicodedata.category(character)[0]
            if kind in "LNM":
                word += character
                continue
            found += [word] if word else []
            word = ""
            found += [character] if kind not in "ZC" else []
        return [word.lower() for word in found]

    wanted, given = words(answer), words(text)
    return bool(wanted) and any(given[at : at + len(wanted)] == wanted for at in range(len(given)))


TEXTS = [
    "The U.S. won 3.14 games in Zürich",
    "zurich, u s",
    "Moses' brother Aaron",
    "",
    "co-operate; don't",
    "東京 city",
]
ANSWERS = [
    "U.S.",
    "zürich",
    "Zurich",
    "3.14",
    "14",
    "aaron",
    "Aar",
    "brother aaron",
    "don't",
    "'",
    "東京",
    "",
    " ",
    "operate;",
]


@pytest.mark.parametrize("text", TEXTS)
def test_rule_equals_the_loop(text):
    for answer in ANSWERS:
        assert holds(tokens(text), [tokens(answer)]) == in_a_row(text, answer), answer


def test_questions_with_an_answer_among_the_first():
    texts = {"a": "nothing", "b": "Moses came", "c": "he saw Aaron"}
    run = Run.from_dict({"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"a": 2.0, "c": 1.0}, "q3": {"a": 1.0}})
    answers = {"q1": ["moses"], "q2": ["aaron", "moses"], "q3": ["moses"], "q4": ["moses"]}
    judged = judged_by_answers(run, answers, texts, 2)
    assert judged == {"q1": {"a": 0, "b": 1}, "q2": {"a": 0, "c": 1}, "q3": {"a": 0}, "q4": {}}
    measured = measure(run, judged, ["answers@1", "answers@2"])
    assert measured.means() == {"answers@1": 0.0, "answers@2": 0.5}
    assert measured.missing == 1
    assert asks_answers("answers@20")
    assert not asks_answers("success@20")
