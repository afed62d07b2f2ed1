"""Rules about what a student makes and what takes it; ``compatibility`` asks them."""

from __future__ import annotations

import importlib.util

from retrieval_kd.pipeline.rule_reading import Config, option


def shared_space_is_there(config: Config) -> str | None:
    """Comparing passages with passages means something where both sides live in one space."""
    student = config["student"]
    if student.get("shared_space") and student.get("shared", True):
        return None
    for name, term in config["objective"].items():
        if term.get("shared_space"):
            fits = "student.shared=true would fit" if student.get("shared_space") else "student=dense would fit"
            side = "student.shared=false" if student.get("shared_space") else f"student={option(config, 'student')}"
            return f"objective.{name} compares passages in the space of queries, which {side} does not share; {fits}"
    return None


def terms_take_what_is_made(config: Config) -> str | None:
    """Features of a pair are made of one vector for each text."""
    made = config["student"].get("makes")
    for name, term in config["objective"].items():
        if term.get("takes") not in (None, made):
            return (
                f"objective.{name} takes {term['takes']}, and student={option(config, 'student')} makes {made};"
                " student=dense would fit"
            )
    return None


def penalties_are_of_terms(config: Config) -> str | None:
    """There is nothing to make sparse in vectors."""
    penalised = config["regularizer"].get("penalises")
    if penalised in (None, config["student"].get("makes")):
        return None
    return (
        f"regularizer={option(config, 'regularizer')} penalises {penalised}, which"
        f" student={option(config, 'student')} does not make; regularizer=none or student=sparse would fit"
    )


def idf_counts_once(config: Config) -> str | None:
    """Dividing by IDF stands for queries without weights; with both, rare terms would count twice."""
    weights, regularizer = config["student"].get("query_weights"), config["regularizer"]
    reads = [*regularizer.get("reads", ()), *regularizer.get("penalty", {}).get("reads", ())]
    if "idf" not in reads or weights in (None, "binary"):
        return None
    return (
        f"regularizer={option(config, 'regularizer')} divides by IDF, which student.query_weights={weights} has in the"
        " score already; regularizer=flops or student.query_weights=binary would fit"
    )


def token_weights_are_used(config: Config) -> str | None:
    """A file of weights and the option that takes it belong together."""
    student = config["student"]
    kind, file = student.get("query_weights"), student.get("token_weights")
    if kind == "file" and file is None and not config.get("model"):
        return "student.query_weights=file needs student.token_weights=FILE; student.query_weights=idf counts itself"
    if file is not None and kind != "file":
        return f"student.query_weights={kind} does not read student.token_weights; student.query_weights=file would"
    if student.get("refit") and kind != "idf":
        return f"student.refit fits IDF, and student.query_weights={kind} has none; student.query_weights=idf would fit"
    return None


def engine_searches_what_is_made(config: Config) -> str | None:
    """Posting lists hold terms; what a trained folder holds is seen when it is searched."""
    searched, made = config["engine"].get("searches"), config["student"].get("makes")
    if searched in (None, made) or config.get("model"):
        return None
    return (
        f"engine={option(config, 'engine')} searches {searched}, and student={option(config, 'student')} makes"
        f" {made}; engine=exact would fit"
    )


def engine_is_installed(config: Config) -> str | None:
    """Before hours of training, not after."""
    package, extra = config["engine"].get("package"), config["engine"].get("extra")
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"engine={option(config, 'engine')} needs a package: pip install 'retrieval-kd[{extra}]'"
