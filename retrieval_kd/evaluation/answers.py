"""Whether a passage holds an answer: DPR's rule, by which open-domain retrieval is compared.

Texts are put into Unicode's NFD form and cut into runs of letters, digits and marks, and single other characters that
are visible; case is folded. An answer is held where its tokens stand in a row. Titles do not count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from retrieval_kd.data.runs import Run

BETWEEN = "\x1f"  # a control character, which no token holds
TOKENS = r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]"


def tokens(text: str) -> str:
    """The tokens of a text, each between separators; what stands in a row in it is found as a part of the string."""
    import regex

    found = regex.findall(TOKENS, unicodedata.normalize("NFD", text))
    return BETWEEN + "".join(f"{token}{BETWEEN}" for token in map(str.lower, found))


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether ``text`` holds one of ``answers``, all in the form of ``tokens``; an answer without tokens is in none."""
    return any(len(answer) > 1 and answer in text for answer in answers)


def judged_by_answers(
    run: Run, answers: Mapping[str, Sequence[str]], texts: Mapping[str, str], depth: int
) -> dict[str, dict[str, int]]:
    """Judgements of the first ``depth`` passages of every question: 1 where the text holds an answer, else 0."""
    known: dict[str, str] = {}
    judged = {}
    for query_id, given in answers.items():
        wanted = [tokens(answer) for answer in given]
        listed = run[query_id][0][:depth].tolist() if query_id in run else []
        for passage_id in listed:
            if passage_id not in known:
                known[passage_id] = tokens(texts[passage_id])
        judged[query_id] = {passage_id: int(holds(known[passage_id], wanted)) for passage_id in listed}
    return judged
