"""Rules about what a teacher says and what is learned of it; ``compatibility`` asks them."""

from __future__ import annotations

from collections.abc import Mapping

from retrieval_kd.contracts import Signal
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.needs import (
    JUDGEMENTS,
    LABELS,
    OF_TOKENS,
    SCORES,
    TEACHER_TOP,
    asking,
    needs_of,
    own_teachers,
    takes_teachers_top,
)
from retrieval_kd.pipeline.rule_reading import Config, fitting, gives, hard, judged, nodes, option, soft, tokenizer

OF_POSITIVES = ("probability", "top", "margin")  # confidences that need to know which passage is a positive
LOSSES = {  # of functional.ranking_losses, by what they take
    JUDGEMENTS: ("listwise_cross_entropy", "pointwise_cross_entropy"),
    SCORES: ("listwise_kl", "margin_mse"),
}


def objective_is_not_empty(config: Config) -> str | None:
    """Something has to be learned."""
    if config.get("objective"):
        return None
    known = ", ".join(conf_tree.options().get("objective", []))
    return f"objective=[] leaves nothing to train; name at least one of {known}"


def teacher_gives_what_is_needed(config: Config) -> str | None:
    """Scores, preferences and attention come from the teacher, or from a term's own."""
    for path, node in asking(config):
        own = node.get("teacher")
        teacher = own if isinstance(own, Mapping) else config["teacher"]
        given = gives(teacher)
        missing = sorted(needs_of(node) - {Signal.JUDGEMENTS.value} - set(given))
        if missing:
            told = ", ".join(given) or "nothing"
            who = f"{path}.teacher" if teacher is own else f"teacher={option(config, 'teacher')}"
            return f"{path} needs {missing[0]}, and {who} gives {told}; {fitting(missing[0], path)}"
    return None


def own_teachers_can_be_asked(config: Config) -> str | None:
    """A term's own teacher scores lists or tells where it looks; pairs and whole batches are the training's."""
    for name, teacher in own_teachers(config).items():
        needs = needs_of(config["objective"][name]) - {Signal.JUDGEMENTS.value}
        if not needs:
            return f"objective.{name}.teacher is asked nothing: objective.{name} learns from judgements alone"
        if Signal.PREFERENCE in needs:
            return (
                f"objective.{name}.teacher: pairs are drawn and judged for the whole training, by teacher=pairwise;"
                f" objective.{name} has no teacher of its own"
            )
        if teacher.get("base", teacher).get("in_batch"):
            return (
                f"objective.{name}.teacher.in_batch=true: the training's teacher alone scores whole batches;"
                " false would fit"
            )
    return None


def rerankers_are_told_what_to_learn(config: Config) -> str | None:
    """A cross-encoder that is trained here learns from judgements, or from the scores of a teacher that is named."""
    places = [("teacher", config["teacher"]), *((f"objective.{k}.teacher", v) for k, v in own_teachers(config).items())]
    for path, node in (found for place, teacher in places for found in nodes(teacher, place)):
        train = node.get("train") or {}
        if "teacher" in train and (refusal := _learning(f"{path}.train", train)):
            return refusal
    return None


def _learning(path: str, train: Config) -> str | None:
    labels, teacher = train["labels"], train["teacher"]
    if labels not in LABELS:
        return f"{path}.labels is {' or '.join(LABELS)}, got {labels}"
    if labels == SCORES and teacher is None:
        return f"{path}.labels={SCORES} learns from another teacher; +teacher@{path}.teacher=ensemble would name one"
    if labels != SCORES and teacher is not None:
        return f"{path}.teacher is not asked by {path}.labels={labels}; {path}.labels={SCORES} would ask it"
    if labels == SCORES and train["temperature"] <= 0:
        return f"{path}.temperature={train['temperature']}: a number above 0 is needed"
    if train["negatives"] < 1:
        return f"{path}.negatives={train['negatives']}: a list needs at least one"
    loss, others = str(train["loss"] or ""), (set(LOSSES) - {labels}).pop()
    if loss.rpartition(".")[2] in LOSSES[others]:
        return f"{path}.loss={loss} takes {others}; {' or '.join(LOSSES[labels])} would fit {path}.labels={labels}"
    return None


def a_judge_stands_on_scores(config: Config) -> str | None:
    """A judge of pairs on top of another would have no scores to draw pairs by."""
    if "judge" not in config["teacher"].get("base", {}):
        return None
    return "teacher.base=pairwise is a judge of pairs itself; teacher@teacher.base=ensemble or pointwise would fit"


def a_judge_learns_from_what_there_is(config: Config) -> str | None:
    """A judge that is trained here needs to be told which of two passages is the better one."""
    train = config["teacher"].get("judge", {}).get("train") or {}
    asked = any(Signal.PREFERENCE in node.get("needs", []) for _, node in asking(config))
    if not asked or train.get("labels") != "judgements" or judged(config):
        return None
    return (
        "teacher.judge.train.labels=judgements, and the training data has none (data.judgements=none);"
        " teacher.judge.train.labels=scores, a ready judge, or judge@teacher.judge=score_differences would fit"
    )


def hard_labels_have_judgements(config: Config) -> str | None:
    """A term with hard labels learns nothing without them."""
    labelled = Signal.JUDGEMENTS in config["labels"].get("gives", ())
    if judged(config) or labelled or takes_teachers_top(config["negatives"]):
        return None
    for path, node in asking(config):
        if Signal.JUDGEMENTS in needs_of(node):
            own = f"{path}.positive={TEACHER_TOP} or " if "positive" in node else ""
            return (
                f"{path} needs judgements, and data={option(config, 'data')} has none (data.judgements=none);"
                f" {own}an objective of soft labels alone would fit, such as objective=[listwise_kl]"
            )
    return None


def filter_has_a_hard_label_term(config: Config) -> str | None:
    """Soft labels keep the whole list, so that a filter would do nothing."""
    if config["filter"].get("_target_", "").startswith("retrieval_kd.filters.none."):
        return None
    if any(hard(term) for term in config["objective"].values()):
        return None
    terms = ",".join(config["objective"])
    return (
        f"filter={option(config, 'filter')} drops hard-label negatives, and objective=[{terms}] has no hard-label"
        f" term; filter=none, or objective=[contrastive,{terms}], would fit"
    )


def pacing_has_something_to_weigh(config: Config) -> str | None:
    """Hard labels count for every query: the weights are of what a teacher says."""
    pacing = config["pacing"]
    if pacing.get("_target_", "").startswith("retrieval_kd.pacing.none."):
        return None
    if any(term.get("paced", True) for term in soft(config)):
        return None
    terms = ",".join(config["objective"])
    return (
        f"pacing={option(config, 'pacing')} weighs what a teacher says of each query, and objective=[{terms}] asks no"
        f" teacher; pacing=none, or objective=[{terms},listwise_kl], would fit"
    )


def confidence_knows_a_positive(config: Config) -> str | None:
    """Three of the confidences are about the positive of a list."""
    confidence = config["pacing"].get("confidence")
    labelled = Signal.JUDGEMENTS in config["labels"].get("gives", ())
    if confidence not in OF_POSITIVES or labelled or judged(config):
        return None
    return (
        f"pacing.confidence={confidence} asks what the teacher says of each query's positive, and"
        f" data={option(config, 'data')} has no judgements;"
        " pacing.confidence=certainty would fit"
    )


def white_boxes_read_the_same_tokens(config: Config) -> str | None:
    """Attention maps are compared token by token, and pairs are shown as the student's tokens."""
    own, student = own_teachers(config), tokenizer(config["student"]) or tokenizer(config.get("encoder"))
    for name, term in config["objective"].items():
        teacher = tokenizer(own.get(name, config["teacher"])) if OF_TOKENS & needs_of(term) else None
        if student is None or teacher is None or student == teacher:
            continue
        who = f"objective.{name}.teacher" if name in own else f"teacher={option(config, 'teacher')}"
        return (
            f"objective.{name} asks about the student's tokens ({student}), and {who} reads those of {teacher};"
            f" a teacher with the tokenizer {student} would fit"
        )
    return None


def words_are_there(config: Config) -> str | None:
    """White boxes are shown single tokens of both texts; attention is compared with what the student makes of them."""
    student = config["student"]
    asked = [(path, sorted(OF_TOKENS & needs_of(node))) for path, node in asking(config)]
    for path, signals in asked if not student.get("words") else ():
        if signals:
            return (
                f"{path} needs {signals[0]}, which is of the tokens of queries and passages, and"
                f" student={option(config, 'student')} has none of queries; student=dense or late_interaction would fit"
            )
    return None
