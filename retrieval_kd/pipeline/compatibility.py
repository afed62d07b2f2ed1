"""Combinations that cannot work, refused when the configuration is composed and before anything heavy is imported.

Options say in their YAML what they give and need; a rule compares two sides, and its refusal names both of them and
what would fit.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from retrieval_kd.contracts import Signal, UserError
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.list_rules import (
    confidence_without_positives,
    made_for_nobody,
    made_without_positives,
    pacing_has_something_to_weigh,
)
from retrieval_kd.pipeline.needs import TEACHER_TOP, asking, needs_of, takes_teachers_top

Config = Mapping[str, Any]


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


def rounds_can_be_counted(config: Config) -> str | None:
    """None of them is nothing to evaluate."""
    rounds = config["recipe"].get("rounds")
    return None if rounds is None or rounds >= 1 else f"recipe.rounds={rounds}: at least 1 is needed"


def run_files_teach_what_they_list(config: Config) -> str | None:
    """Made passages are in no file."""
    if config["negatives"].get("makes") != "dark":
        return None
    for path, node in _nodes(config.get("teacher"), "teacher"):
        if node["_target_"].startswith("retrieval_kd.teachers.raw_scores."):
            return (
                f"negatives={_option(config, 'negatives')} makes passages that {path}, a file of scores, does not list;"
                " a teacher that scores any text (cross_encoder, bi_encoder, bm25) or negatives=hard would fit"
            )
    return None


def dark_passages_have_positives(config: Config) -> str | None:
    """Of which they are made."""
    return made_without_positives(config, _judged(config))


def sweeps_run_one_process(config: Config) -> str | None:
    """Every child of DDP would start the whole sweep again, and a sweeper would give each its own numbers."""
    if not _in_multirun() or _processes(config) == 1 or "spawn" in str(config["trainer"].get("strategy")):
        return None
    return (
        f"-m with trainer.devices={config['trainer']['devices']} would start the whole sweep in every process;"
        " run one fresh process per job (retrieval-kd train … for each), or sweep with trainer.devices=1"
    )


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
        gives = _gives(teacher)
        missing = sorted(needs_of(node) - {Signal.JUDGEMENTS.value} - set(gives))
        if missing:
            told = ", ".join(gives) or "nothing"
            return (
                f"{path} needs {missing[0]}, and teacher={_option(config, 'teacher')} gives {told};"
                f" {_fitting(missing[0])}"
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
    if not asked or train.get("labels") != "judgements" or _judged(config):
        return None
    return (
        "teacher.judge.train.labels=judgements, and the training data has none (data.judgements=none);"
        " teacher.judge.train.labels=scores, a ready judge, or judge@teacher.judge=score_differences would fit"
    )


def hard_labels_have_judgements(config: Config) -> str | None:
    """A term with hard labels learns nothing without them."""
    labelled = Signal.JUDGEMENTS in config["labels"].get("gives", ())
    if _judged(config) or labelled or takes_teachers_top(config["negatives"]):
        return None
    for path, node in asking(config):
        if Signal.JUDGEMENTS in needs_of(node):
            own = f"{path}.positive={TEACHER_TOP} or " if "positive" in node else ""
            return (
                f"{path} needs judgements, and data={_option(config, 'data')} has none (data.judgements=none);"
                f" {own}an objective of soft labels alone would fit, such as objective=[listwise_kl]"
            )
    return None


def labels_are_of_whole_lists(config: Config) -> str | None:
    """Pairs are drawn of lists as the teacher scored them; of some, labels leave a passage out."""
    preferred = next((path for path, node in asking(config) if Signal.PREFERENCE in node.get("needs", ())), None)
    if preferred is None or not config["labels"].get("gives"):
        return None
    return (
        f"labels={_option(config, 'labels')} drops passages from lists, and {preferred} needs pairs of all of them;"
        " labels=none, or a stage of its own for either, would fit"
    )


def filter_has_a_hard_label_term(config: Config) -> str | None:
    """Soft labels keep the whole list, so that a filter would do nothing."""
    if config["filter"].get("_target_", "").startswith("retrieval_kd.filters.none."):
        return None
    if any(_hard(term) for term in config["objective"].values()):
        return None
    terms = ",".join(config["objective"])
    return (
        f"filter={_option(config, 'filter')} drops hard-label negatives, and objective=[{terms}] has no hard-label"
        f" term; filter=none, or objective=[contrastive,{terms}], would fit"
    )


def shared_space_is_there(config: Config) -> str | None:
    """Comparing passages with passages means something where both sides live in one space."""
    student = config["student"]
    if student.get("shared_space") and student.get("shared", True):
        return None
    for name, term in config["objective"].items():
        if term.get("shared_space"):
            fits = "student.shared=true would fit" if student.get("shared_space") else "student=dense would fit"
            side = "student.shared=false" if student.get("shared_space") else f"student={_option(config, 'student')}"
            return f"objective.{name} compares passages in the space of queries, which {side} does not share; {fits}"
    return None


def penalties_are_of_terms(config: Config) -> str | None:
    """There is nothing to make sparse in vectors."""
    penalised = config["regularizer"].get("penalises")
    if penalised in (None, config["student"].get("makes")):
        return None
    return (
        f"regularizer={_option(config, 'regularizer')} penalises {penalised}, which"
        f" student={_option(config, 'student')} does not make; regularizer=none or student=sparse would fit"
    )


def idf_counts_once(config: Config) -> str | None:
    """Dividing by IDF stands for queries without weights; with both, rare terms would count twice."""
    weights, regularizer = config["student"].get("query_weights"), config["regularizer"]
    reads = [*regularizer.get("reads", ()), *regularizer.get("penalty", {}).get("reads", ())]
    if "idf" not in reads or weights in (None, "binary"):
        return None
    return (
        f"regularizer={_option(config, 'regularizer')} divides by IDF, which student.query_weights={weights} has in the"
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
        f"engine={_option(config, 'engine')} searches {searched}, and student={_option(config, 'student')} makes"
        f" {made}; engine=exact would fit"
    )


def engine_is_installed(config: Config) -> str | None:
    """Before hours of training, not after."""
    package, extra = config["engine"].get("package"), config["engine"].get("extra")
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"engine={_option(config, 'engine')} needs a package: pip install 'retrieval-kd[{extra}]'"


def words_are_there(config: Config) -> str | None:
    """Attention is compared with what the student makes of single tokens, of both texts."""
    student = config["student"]
    if student.get("words") or not any(Signal.ATTENTION in node.get("needs", []) for _, node in asking(config)):
        return None
    return (
        f"objective needs attention, which is compared with token states of queries and passages, and"
        f" student={_option(config, 'student')} has none of queries; student=dense or late_interaction would fit"
    )


def attention_is_of_the_same_tokens(config: Config) -> str | None:
    """Attention maps are compared token by token."""
    if not any(Signal.ATTENTION in node.get("needs", []) for _, node in asking(config)):
        return None
    student = _tokenizer(config["student"]) or _tokenizer(config.get("encoder"))
    teacher = _tokenizer(config["teacher"])
    if student is None or teacher is None or student == teacher:
        return None
    return (
        f"objective needs attention over the student's tokens ({student}), and teacher={_option(config, 'teacher')}"
        f" reads those of {teacher}; a teacher with the tokenizer {student} would fit"
    )


def confidence_knows_a_positive(config: Config) -> str | None:
    """Unless it is about the list as a whole."""
    labelled = Signal.JUDGEMENTS in config["labels"].get("gives", ())
    return confidence_without_positives(config, _judged(config) or labelled)


def batches_divide_over_processes(config: Config) -> str | None:
    """Each process takes an equal part of a batch."""
    size, processes = config["trainer"].get("batch_size"), _processes(config)
    if processes is None or not isinstance(size, int) or size % processes == 0:
        return None
    return (
        f"trainer.batch_size={size} does not divide by {processes} processes;"
        f" trainer.batch_size={max(size - size % processes, processes)} would fit"
    )


Rule = Callable[[Config], str | None]

RULES: tuple[Rule, ...] = (
    pool_holds_the_draw,
    window_is_a_pair_of_ranks,
    rounds_can_be_counted,
    run_files_teach_what_they_list,
    dark_passages_have_positives,
    a_judge_stands_on_scores,
    token_weights_are_used,
    engine_searches_what_is_made,
    engine_is_installed,
    sweeps_run_one_process,
)

TRAINING_RULES: tuple[Rule, ...] = (
    objective_is_not_empty,
    teacher_gives_what_is_needed,
    a_judge_learns_from_what_there_is,
    hard_labels_have_judgements,
    labels_are_of_whole_lists,
    filter_has_a_hard_label_term,
    shared_space_is_there,
    penalties_are_of_terms,
    idf_counts_once,
    words_are_there,
    attention_is_of_the_same_tokens,
    pacing_has_something_to_weigh,
    made_for_nobody,
    confidence_knows_a_positive,
    batches_divide_over_processes,
)


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Config]]:
    """Every mapping with a ``_target_``, nested ones too."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _nodes(value, f"{path}.{key}")


def _option(config: Config, group: str) -> str:
    return str(config.get("options", {}).get(group, "(own)"))


def _gives(teacher: Config) -> list[str]:
    """A teacher's signals; attention is that of a single scorer, for there is nothing that could combine it."""
    scorer = teacher.get("base", teacher).get("scorer", {})
    return [*teacher.get("gives", ()), *([Signal.ATTENTION.value] if scorer.get("white_box") else [])]


def _fitting(signal: str) -> str:
    """What gives a signal."""
    options, load = conf_tree.options(), conf_tree.load
    names = [f"teacher={name}" for name in options["teacher"] if signal in load(f"teacher/{name}").get("gives", ())]
    if signal == Signal.ATTENTION:
        white = [name for name in options["scorer"] if load(f"scorer/{name}").get("white_box")]
        names += [f"teacher=pointwise scorer@teacher.scorer={name}" for name in white]
    return f"{' or '.join(names)} would fit" if names else "no teacher here gives it"


def _judged(config: Config) -> bool:
    data = config["data"]
    entries = list((data.get("train") or {}).values()) or [data]
    settings = (entry.get("judgements", data.get("judgements")) for entry in entries if isinstance(entry, Mapping))
    return Signal.JUDGEMENTS in data.get("gives", [Signal.JUDGEMENTS]) and any(value != "none" for value in settings)


def _hard(term: Config) -> bool:
    """Terms that need scores beside judgements are soft: they do not ask the filter."""
    needs = term.get("needs", [])
    return Signal.JUDGEMENTS in needs and Signal.SCORE not in needs


def _tokenizer(node: Any) -> str | None:
    """The first one named in a node or below it."""
    if not isinstance(node, Mapping):
        return None
    if isinstance(node.get("tokenizer"), str):
        return str(node["tokenizer"])
    return next((found for found in map(_tokenizer, node.values()) if found), None)


def _processes(config: Config) -> int | None:
    """How many processes train; None where only the machine can tell."""
    devices = config["trainer"].get("devices")
    if isinstance(devices, list):
        return len(devices)
    if devices == "auto" and config["trainer"].get("accelerator") == "cpu":
        return 1
    return devices if isinstance(devices, int) and devices > 0 else None


def _in_multirun() -> bool:
    if "hydra" not in sys.modules:
        return False
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
