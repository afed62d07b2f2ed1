"""Rules about what a teacher says and what is learned of it; ``compatibility`` asks them."""

from __future__ import annotations

from collections.abc import Mapping

from retrieval_kd.contracts import Signal
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.needs import TEACHER_TOP, asking, needs_of, takes_teachers_top
from retrieval_kd.pipeline.rule_reading import Config, fitting, gives, hard, judged, option, soft, tokenizer

OF_POSITIVES = ("probability", "top", "margin")  # confidences that need to know which passage is a positive


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
            return (
                f"{path} needs {missing[0]}, and teacher={option(config, 'teacher')} gives {told};"
                f" {fitting(missing[0])}"
            )
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


def attention_is_of_the_same_tokens(config: Config) -> str | None:
    """Attention maps are compared token by token."""
    if not any(Signal.ATTENTION in node.get("needs", []) for _, node in asking(config)):
        return None
    student = tokenizer(config["student"]) or tokenizer(config.get("encoder"))
    teacher = tokenizer(config["teacher"])
    if student is None or teacher is None or student == teacher:
        return None
    return (
        f"objective needs attention over the student's tokens ({student}), and teacher={option(config, 'teacher')}"
        f" reads those of {teacher}; a teacher with the tokenizer {student} would fit"
    )


def words_are_there(config: Config) -> str | None:
    """Attention is compared with what the student makes of single tokens, of both texts."""
    student = config["student"]
    if student.get("words") or not any(Signal.ATTENTION in node.get("needs", []) for _, node in asking(config)):
        return None
    return (
        f"objective needs attention, which is compared with token states of queries and passages, and"
        f" student={option(config, 'student')} has none of queries; student=dense or late_interaction would fit"
    )
