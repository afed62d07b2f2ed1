"""Combinations that cannot work, refused when the configuration is composed and before anything heavy is imported.

Options say in their YAML what they give and need; a rule compares two sides, and its refusal names both of them and
what would fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline import list_rules, run_rules, student_rules, teaching_rules
from retrieval_kd.pipeline.rule_reading import Config

Rule = Callable[[Config], str | None]

RULES: tuple[Rule, ...] = (
    list_rules.pool_holds_the_draw,
    list_rules.window_is_a_pair_of_ranks,
    run_rules.rounds_can_be_counted,
    list_rules.run_files_teach_what_they_list,
    list_rules.made_without_positives,
    teaching_rules.a_judge_stands_on_scores,
    teaching_rules.rerankers_are_told_what_to_learn,
    student_rules.token_weights_are_used,
    student_rules.engine_searches_what_is_made,
    student_rules.engine_is_installed,
)

TRAINING_RULES: tuple[Rule, ...] = (
    teaching_rules.objective_is_not_empty,
    teaching_rules.teacher_gives_what_is_needed,
    teaching_rules.own_teachers_can_be_asked,
    teaching_rules.a_judge_learns_from_what_there_is,
    teaching_rules.hard_labels_have_judgements,
    list_rules.labels_are_of_whole_lists,
    list_rules.combined_labels_have_a_scale,
    teaching_rules.filter_has_a_hard_label_term,
    student_rules.shared_space_is_there,
    student_rules.terms_take_what_is_made,
    student_rules.penalties_are_of_terms,
    student_rules.idf_counts_once,
    teaching_rules.words_are_there,
    teaching_rules.white_boxes_read_the_same_tokens,
    teaching_rules.pacing_has_something_to_weigh,
    list_rules.made_for_nobody,
    teaching_rules.confidence_knows_a_positive,
    run_rules.batches_divide_over_processes,
    run_rules.files_teach_every_round,
)


def check(cfg: DictConfig, trains: bool | None = None) -> None:
    """Refuse what cannot work; what concerns training only is left out where nothing trains (None: as cfg says)."""
    config = cast(Config, OmegaConf.to_container(cfg, resolve=True))
    if trains is None:
        trains = trains_student(config)
    for rule in (*RULES, *TRAINING_RULES) if trains else RULES:
        refusal = rule(config)
        if refusal:
            raise UserError(refusal)


def trains_student(config: Config) -> bool:
    """Whether a student is trained: none is given, and the recipe has a stage."""
    staged = bool(config["recipe"].get("stages") or config["recipe"].get("rounds"))
    return config.get("model") is None and staged and config.get("target", "student") == "student"
