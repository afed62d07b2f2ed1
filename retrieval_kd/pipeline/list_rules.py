"""Rules about lists: how they are drawn, labelled and added to; ``compatibility`` asks them."""

from __future__ import annotations

from retrieval_kd.contracts import Signal
from retrieval_kd.pipeline.needs import asking, own_teachers
from retrieval_kd.pipeline.rule_reading import Config, judged, nodes, option, soft


def pool_holds_the_draw(config: Config) -> str | None:
    """A query's list is drawn from its pool."""
    pool, drawn = config["negatives"].get("pool"), config["negatives"].get("per_query")
    if pool is None or drawn is None or drawn <= pool:
        return None
    return (
        f"negatives.per_query={drawn} cannot be drawn from negatives.pool={pool};"
        f" negatives.pool={drawn} or a smaller negatives.per_query would fit"
    )


def window_is_a_pair_of_ranks(config: Config) -> str | None:
    """Steps are planned by it, before the negatives are built."""
    window = config["negatives"].get("window")
    if window is None or (len(window) == 2 and all(isinstance(rank, int) for rank in window)):
        return None
    return f"negatives.window={window}: [first rank, last rank] is needed, such as [1,100]"


def run_files_teach_what_they_list(config: Config) -> str | None:
    """Made passages are in no file."""
    if config["negatives"].get("makes") != "dark":
        return None
    teachers = [("teacher", config["teacher"])]
    teachers += [(f"objective.{name}.teacher", node) for name, node in own_teachers(config).items()]
    for path, node in (found for key, teacher in teachers for found in nodes(teacher, key)):
        if node["_target_"].startswith("retrieval_kd.teachers.raw_scores."):
            return (
                f"negatives={option(config, 'negatives')} makes passages that {path}, a file of scores, does not list;"
                " a teacher that scores any text (cross_encoder, bi_encoder, bm25) or negatives=hard would fit"
            )
    return None


def made_without_positives(config: Config) -> str | None:
    """Negatives are strengthened by a positive's words, and positives are what is masked."""
    if config["negatives"].get("makes") != "dark" or judged(config):
        return None
    return (
        f"negatives={option(config, 'negatives')} makes passages of each query's positive, and"
        f" data={option(config, 'data')} has no judgements; negatives=hard would fit"
    )


def made_for_nobody(config: Config) -> str | None:
    """Made passages are no hard labels' business: a soft term must take them."""
    if config["negatives"].get("makes") != "dark" or any(term.get("dark", True) for term in soft(config)):
        return None
    terms = ",".join(config["objective"])
    return (
        f"negatives={option(config, 'negatives')} makes passages for soft labels, and objective=[{terms}] has no term"
        f" that takes them; negatives=hard, or objective=[{terms},listwise_kl], would fit"
    )


def labels_are_of_whole_lists(config: Config) -> str | None:
    """Pairs are drawn of lists as the teacher scored them; of some, labels leave a passage out."""
    preferred = next((path for path, node in asking(config) if Signal.PREFERENCE in node.get("needs", ())), None)
    if preferred is None or not config["labels"].get("gives"):
        return None
    return (
        f"labels={option(config, 'labels')} drops passages from lists, and {preferred} needs pairs of all of them;"
        " labels=none, or a stage of its own for either, would fit"
    )


def combined_labels_have_a_scale(config: Config) -> str | None:
    """Thresholds on a teacher's own scores mean something where all lists have one scale."""
    labels = config["labels"]
    if labels.get("kind") != "combined" or not labels.get("gives"):
        return None
    teacher = config["teacher"].get("base", config["teacher"])
    scale = teacher.get("scale", 1.0)
    if teacher.get("normalise") != "min_max":
        return (
            f"labels.kind=combined is of scores from 0 to 1, and teacher={option(config, 'teacher')} does not"
            " bring its scores there; teacher=ensemble with teacher.normalise=min_max, or labels.kind=probability with"
            " thresholds of that, would fit"
        )
    for name in ("positive", "negative"):
        if not 0 < labels[name] < scale:
            return f"labels.{name}={labels[name]:g}: combined scores are from 0 to teacher.scale={scale:g}"
    return None
