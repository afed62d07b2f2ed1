"""Combinations of made passages and of pacing that cannot work; ``compatibility`` asks these rules among its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieval_kd.contracts import Signal
from retrieval_kd.pipeline.needs import needs_of

Config = Mapping[str, Any]

OF_POSITIVES = ("probability", "top", "margin")  # confidences that need to know which passage is a positive


def pacing_has_something_to_weigh(config: Config) -> str | None:
    """Hard labels count for every query: the weights are of what a teacher says."""
    pacing = config["pacing"]
    if pacing.get("_target_", "").startswith("retrieval_kd.pacing.none."):
        return None
    if any(term.get("paced", True) for term in _soft(config)):
        return None
    terms = ",".join(config["objective"])
    return (
        f"pacing={_option(config, 'pacing')} weighs what a teacher says of each query, and objective=[{terms}] asks no"
        f" teacher; pacing=none, or objective=[{terms},listwise_kl], would fit"
    )


def confidence_without_positives(config: Config, judged: bool) -> str | None:
    """Three of the confidences are about the positive of a list."""
    confidence = config["pacing"].get("confidence")
    if confidence not in OF_POSITIVES or judged:
        return None
    return (
        f"pacing.confidence={confidence} asks what the teacher says of each query's positive, and"
        f" data={_option(config, 'data')} has no judgements;"
        " pacing.confidence=certainty would fit"
    )


def made_without_positives(config: Config, judged: bool) -> str | None:
    """Negatives are strengthened by a positive's words, and positives are what is masked."""
    if config["negatives"].get("makes") != "dark" or judged:
        return None
    return (
        f"negatives={_option(config, 'negatives')} makes passages of each query's positive, and"
        f" data={_option(config, 'data')} has no judgements; negatives=hard would fit"
    )


def made_for_nobody(config: Config) -> str | None:
    """Made passages are no hard labels' business: a soft term must take them."""
    if config["negatives"].get("makes") != "dark" or any(term.get("dark", True) for term in _soft(config)):
        return None
    terms = ",".join(config["objective"])
    return (
        f"negatives={_option(config, 'negatives')} makes passages for soft labels, and objective=[{terms}] has no term"
        f" that takes them; negatives=hard, or objective=[{terms},listwise_kl], would fit"
    )


def _soft(config: Config) -> list[Config]:
    """The terms that ask a teacher."""
    return [term for term in config["objective"].values() if needs_of(term) - {Signal.JUDGEMENTS.value}]


def _option(config: Config, group: str) -> str:
    return str(config.get("options", {}).get(group, "(own)"))
