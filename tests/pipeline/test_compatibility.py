"""Each rule refuses what cannot work, names both sides, and lets pass what it should."""

import copy
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline import run_rules
from retrieval_kd.pipeline.compatibility import RULES, TRAINING_RULES, check
from retrieval_kd.pipeline.compose import compose, plain


@pytest.fixture(scope="module")
def config():
    return plain(compose())


def changed(config, changes):
    cfg = copy.deepcopy(config)
    for path, value in changes.items():
        *parents, last = path.split("/")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[last] = value
    return OmegaConf.create(cfg)


TERM = "objective/contrastive"
FILE = {"_target_": "retrieval_kd.teachers.raw_scores.RawScores"}
COMBINED = {"gives": ["judgements"], "kind": "combined", "positive": 0.9, "negative": 0.1}
ROUNDS = {"rounds": 2, "stages": {}}
SOFT = {"listwise_kl": {"needs": ["score"], "weight": 1.0}}
HARD = {"contrastive": {"needs": ["judgements"], "weight": 1.0}}
DYNAMIC = {"filter": {"_target_": "retrieval_kd.filters.dynamic.Dynamic"}, "options/filter": "dynamic"}
FROM_SCORES = {"labels": "scores", "teacher": {}, "temperature": 0.1, "negatives": 7, "loss": None}
WHITE = {"white_box": True}
OWN = {"word": {"needs": ["attention"], "teacher": {"gives": ["score"], "scorer": {"white_box": True}}}}
ATTENTION = {"objective": {"word": {"needs": ["attention"]}}, "teacher/gives": ["score", "attention"]}
PACED = {
    "pacing/_target_": "retrieval_kd.pacing.self_paced.SelfPaced",
    "pacing/confidence": "top",
    "pacing/needs": ["score"],
    "options/pacing": "self_paced",
}
PREFERENCES = {
    "objective": {"pairwise": {"needs": ["preference"], "weight": 1.0}},
    "teacher/gives": ["score", "preference"],
}
UNJUDGED_PAIRS = {
    "objective": {"pairwise": {"needs": ["preference"], "weight": 1.0}},
    "teacher/gives": ["score", "preference"],
    "data/judgements": "none",
}

# rule, what is refused, words of the refusal, what passes
CASES = [
    (
        "rounds_can_be_counted",
        {"recipe/rounds": 0},
        ["recipe.rounds=0", "at least 1"],
        {"recipe/rounds": 2},
    ),
    (
        "window_is_a_pair_of_ranks",
        {"negatives/window": [5]},
        ["negatives.window=[5]", "[1,100]"],
        {"negatives/window": [5, 9]},
    ),
    ("pool_holds_the_draw", {"negatives/per_query": 33}, ["per_query=33", "pool=32"], {"negatives/per_query": 32}),
    (
        "run_files_teach_what_they_list",
        {"negatives/makes": "dark", "teacher/scorer": FILE},
        ["negatives=hard", "teacher.scorer", "cross_encoder"],
        {"teacher/scorer": FILE},
    ),
    (
        "made_without_positives",
        {"negatives/makes": "dark", "options/negatives": "dark", "data/judgements": "none"},
        ["negatives=dark", "data=python_docs", "negatives=hard"],
        {"negatives/makes": "dark"},
    ),
    (
        "a_judge_stands_on_scores",
        {"teacher/base": {"judge": {}}},
        ["teacher.base=pairwise", "teacher@teacher.base=ensemble"],
        {"teacher/base": {"gives": ["score"]}},
    ),
    (
        "a_judge_learns_from_what_there_is",
        UNJUDGED_PAIRS | {"teacher/judge": {"train": {"labels": "judgements"}}},
        ["labels=judgements", "data.judgements=none", "labels=scores"],
        UNJUDGED_PAIRS | {"teacher/judge": {"train": {"labels": "scores"}}},
    ),
    (
        "penalties_are_of_terms",
        {"regularizer/penalises": "terms"},
        ["penalises terms", "student=dense", "student=sparse would fit"],
        {"regularizer/penalises": "terms", "student/makes": "terms"},
    ),
    (
        "engine_searches_what_is_made",
        {"engine/searches": "terms"},
        ["searches terms", "student=dense makes vectors", "engine=exact would fit"],
        {"engine/searches": "terms", "student/makes": "terms"},
    ),
    (
        "idf_counts_once",
        {"regularizer/reads": ["idf"], "student/query_weights": "idf"},
        ["student.query_weights=idf", "student.query_weights=binary would fit"],
        {"regularizer/reads": ["idf"], "student/query_weights": "binary"},
    ),
    (
        "idf_counts_once",
        {"regularizer/penalty": {"reads": ["idf"]}, "student/query_weights": "idf"},
        ["student.query_weights=idf"],
        {"regularizer/penalty": {"reads": ["idf"]}, "student/query_weights": "binary"},
    ),
    (
        "token_weights_are_used",
        {"student/query_weights": "file"},
        ["student.query_weights=file needs student.token_weights=FILE"],
        {"student/query_weights": "file", "student/token_weights": "table.json"},
    ),
    (
        "token_weights_are_used",
        {"student/query_weights": "binary", "student/token_weights": "table.json"},
        ["student.query_weights=binary does not read student.token_weights"],
        {"student/query_weights": "binary"},
    ),
    (
        "token_weights_are_used",
        {"student/query_weights": "learned", "student/refit": True},
        ["student.refit fits IDF", "student.query_weights=learned has none"],
        {"student/query_weights": "idf", "student/refit": True},
    ),
    (
        "engine_is_installed",
        {"engine/package": "no_such_package", "engine/extra": "more"},
        ["pip install 'retrieval-kd[more]'"],
        {"engine/package": "numpy", "engine/extra": "more"},
    ),
    ("objective_is_not_empty", {"objective": {}}, ["objective=[]", "contrastive"], {"objective": SOFT}),
    (
        "teacher_gives_what_is_needed",
        {"teacher/gives": ["preference"]},
        ["objective.listwise_kl needs score", "teacher=ensemble gives preference", "teacher=pointwise"],
        {"teacher/gives": [], "objective/listwise_kl/teacher": {"gives": ["score"]}},
    ),
    (
        "teacher_gives_what_is_needed",
        {"objective": HARD, "pacing/needs": ["score"], "teacher/gives": []},
        ["pacing=none needs score"],
        {"objective": HARD, "teacher/gives": []},
    ),
    (
        "teacher_gives_what_is_needed",
        {f"{TERM}/needs": ["nonsense"]},
        ["nonsense", "no teacher here gives it"],
        {"pacing/needs": ["score"]},
    ),
    (
        "hard_labels_have_judgements",
        {"data/judgements": "none"},
        ["objective.contrastive", "data=python_docs", "listwise_kl"],
        {"data/judgements": "none", "objective": SOFT},
    ),
    (
        "hard_labels_have_judgements",
        {"data/train": {"a": {"judgements": "none"}}},
        ["objective.contrastive"],
        {"data/train": {"a": {"judgements": "none"}, "b": {}}},
    ),
    (
        "hard_labels_have_judgements",
        {"data/gives": []},
        ["objective.contrastive"],
        {"data/gives": [], f"{TERM}/positive": "teacher_top"},
    ),
    (
        "hard_labels_have_judgements",
        {"data/judgements": "none"},
        ["objective.contrastive needs judgements"],
        {"data/judgements": "none", "labels/gives": ["judgements"]},
    ),
    (
        "labels_are_of_whole_lists",
        PREFERENCES | {"labels/gives": ["judgements"], "options/labels": "thresholds"},
        ["labels=thresholds drops passages", "objective.pairwise needs pairs"],
        PREFERENCES,
    ),
    (
        "filter_has_a_hard_label_term",
        {**DYNAMIC, "objective": {**SOFT, "margin_mse": {"needs": ["score", "judgements"]}}},
        ["filter=dynamic", "objective=[listwise_kl,margin_mse]", "contrastive"],
        DYNAMIC,
    ),
    (
        "shared_space_is_there",
        {f"{TERM}/shared_space": True, "student/shared": False},
        ["objective.contrastive", "student.shared=false", "student.shared=true would fit"],
        {f"{TERM}/shared_space": True},
    ),
    (
        "shared_space_is_there",
        {f"{TERM}/shared_space": True, "student/shared_space": False, "options/student": "sparse"},
        ["student=sparse", "student=dense would fit"],
        {"student/shared_space": False},
    ),
    (
        "words_are_there",
        {**ATTENTION, "student/words": False, "options/student": "sparse"},
        ["needs attention", "student=sparse has none of queries", "late_interaction would fit"],
        ATTENTION,
    ),
    (
        "teacher_gives_what_is_needed",
        {"objective": ATTENTION["objective"]},
        [
            "objective.word needs attention",
            "teacher=ensemble gives score",
            "scorer@teacher.scorer=cross_encoder or +teacher@objective.word.teacher=pointwise, a teacher of its own,",
        ],
        {"objective": ATTENTION["objective"], "teacher": {"gives": ["score"], "scorer": {"white_box": True}}},
    ),
    (
        "white_boxes_read_the_same_tokens",
        {**ATTENTION, "encoder/tokenizer": "bert", "teacher/scorer": {"tokenizer": "t5"}},
        ["bert", "t5", "teacher=ensemble"],
        {**ATTENTION, "encoder/tokenizer": "bert", "teacher/scorer": {"tokenizer": "bert"}},
    ),
    (
        "teacher_gives_what_is_needed",
        {"objective": {"word": {**OWN["word"], "teacher": {"gives": ["score"]}}}},
        ["objective.word needs attention, and objective.word.teacher gives score", "+teacher@objective.word.teacher="],
        {"objective": OWN},
    ),
    (
        "own_teachers_can_be_asked",
        {"objective": {"contrastive": {"needs": ["judgements"], "teacher": {"gives": ["score"]}}}},
        ["objective.contrastive.teacher is asked nothing"],
        {"objective": OWN},
    ),
    (
        "own_teachers_can_be_asked",
        {"objective": {"pairwise": {"needs": ["preference"], "teacher": {"gives": ["score", "preference"]}}}},
        ["objective.pairwise.teacher", "teacher=pairwise"],
        {"objective": {"listwise_kl": {"needs": ["score"], "teacher": {"gives": ["score"]}}}},
    ),
    (
        "own_teachers_can_be_asked",
        {"objective": {"listwise_kl": {"needs": ["score"], "teacher": {"gives": ["score"], "in_batch": True}}}},
        ["objective.listwise_kl.teacher.in_batch=true", "false would fit"],
        {"objective": {"listwise_kl": {"needs": ["score"], "teacher": {"gives": ["score"]}}}, "teacher/in_batch": True},
    ),
    (
        "white_boxes_read_the_same_tokens",
        {
            "encoder/tokenizer": "bert",
            "objective": {"word": {"needs": ["features"], "teacher": {"scorer": {"tokenizer": "t5", **WHITE}}}},
        },
        ["bert", "t5", "objective.word.teacher"],
        {"encoder/tokenizer": "bert", "teacher/tokenizer": "t5", "objective": {"word": OWN["word"] | {"teacher": {}}}},
    ),
    (
        "words_are_there",
        {"objective": {"cls": OWN["word"]}, "student/words": False, "options/student": "sparse"},
        ["objective.cls needs attention", "student=sparse"],
        {"objective": {"cls": OWN["word"]}},
    ),
    (
        "terms_take_what_is_made",
        {"objective": {"cls": {"takes": "vectors"}}, "student/makes": "tokens", "options/student": "late_interaction"},
        ["objective.cls takes vectors", "student=late_interaction makes tokens", "student=dense would fit"],
        {"objective": {"cls": {"takes": "vectors"}, "other": {}}},
    ),
    *(
        (
            "rerankers_are_told_what_to_learn",
            {**more, f"{place}/scorer": {"_target_": "x", "train": FROM_SCORES | changes}},
            [word.format(place.replace("/", ".")) for word in words],
            {**more, f"{place}/scorer": {"_target_": "x", "train": FROM_SCORES}},
        )
        for place, more in (("teacher", {}), ("objective/word/teacher", {"objective": {"word": {"teacher": {}}}}))
        for changes, words in (
            ({"labels": "guesses"}, ["{}.scorer.train.labels is judgements or scores, got guesses"]),
            ({"teacher": None}, ["{}.scorer.train.labels=scores", "+teacher@{}.scorer.train.teacher=ensemble"]),
            ({"labels": "judgements"}, ["{}.scorer.train.teacher is not asked", "labels=scores would ask it"]),
            ({"temperature": 0}, ["{}.scorer.train.temperature=0"]),
            ({"negatives": 0}, ["{}.scorer.train.negatives=0"]),
            ({"loss": "a.b.pointwise_cross_entropy"}, ["pointwise_cross_entropy takes judgements", "listwise_kl"]),
        )
    ),
    (
        "made_for_nobody",
        {"negatives/makes": "dark", "objective": HARD},
        ["negatives=hard makes passages", "objective=[contrastive]", "listwise_kl"],
        {"negatives/makes": "dark", "objective": SOFT},
    ),
    (
        "pacing_has_something_to_weigh",
        {**PACED, "objective": HARD},
        ["pacing=self_paced", "objective=[contrastive]", "pacing=none"],
        PACED,
    ),
    (
        "confidence_knows_a_positive",
        {**PACED, "pacing/confidence": "margin", "data/judgements": "none", "objective": SOFT},
        ["pacing.confidence=margin", "data=python_docs", "pacing.confidence=certainty"],
        {**PACED, "pacing/confidence": "certainty", "data/judgements": "none", "objective": SOFT},
    ),
    (
        "combined_labels_have_a_scale",
        {"labels": COMBINED, "teacher/normalise": "z_score"},
        ["labels.kind=combined", "teacher=ensemble", "teacher.normalise=min_max"],
        {"labels": COMBINED},
    ),
    (
        "combined_labels_have_a_scale",
        {"labels": COMBINED | {"positive": 1.5}},
        ["labels.positive=1.5", "teacher.scale=1"],
        {"labels": COMBINED | {"positive": 1.5}, "teacher/scale": 2.0},
    ),
    (
        "files_teach_every_round",
        {"recipe": ROUNDS, "negatives/source": "student", "teacher/scorer": FILE | {"unlisted": "refuse"}},
        ["recipe=one_stage mines anew", "teacher.scorer is a file", "teacher.scorer.unlisted=unscored"],
        {"recipe": ROUNDS, "negatives/source": "student", "teacher/scorer": FILE | {"unlisted": "unscored"}},
    ),
    (
        "batches_divide_over_processes",
        {"trainer/devices": 3, "trainer/batch_size": 32},
        ["trainer.batch_size=32", "3 processes", "trainer.batch_size=30"],
        {"trainer/devices": [0, 1]},
    ),
]


@pytest.mark.parametrize(("rule", "refused", "words", "passes"), CASES)
def test_rule(config, rule, refused, words, passes):
    function = next(one for one in (*RULES, *TRAINING_RULES) if one.__name__ == rule)
    assert function(plain(changed(config, passes))) is None
    message = function(plain(changed(config, refused)))
    assert [word for word in words if word not in message] == []
    with pytest.raises(UserError) as caught:
        check(changed(config, refused))
    assert str(caught.value) == message


def test_every_rule_has_a_case():
    assert {rule.__name__ for rule in (*RULES, *TRAINING_RULES)} - {case[0] for case in CASES} == set()


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"trainer/devices": 2}, True),
        ({"trainer/devices": -1}, True),
        ({"trainer/devices": 2, "trainer/strategy": "ddp_spawn"}, False),
        ({"trainer/devices": 1, "trainer/strategy": "ddp"}, False),
        ({"trainer/devices": "auto"}, False),
    ],
)
def test_sweeps_run_one_process(config, changes, refused):
    check(changed(config, changes))  # a job alone may
    message = run_rules.sweeps_run_one_process(plain(changed(config, changes)))
    assert (message is not None) == refused
    assert message is None or "one fresh process per job" in message


@pytest.mark.parametrize(
    "changes", [{"model": "a/model"}, {"recipe/stages": {}}, {"target": "teacher"}], ids=["model", "recipe", "target"]
)
def test_without_training_the_objective_may_not_fit(config, changes):
    unfit = {"data/judgements": "none", **changes}
    check(changed(config, unfit))
    with pytest.raises(UserError):
        check(changed(config, unfit), trains=True)
    with pytest.raises(UserError, match="per_query"):
        check(changed(config, {**unfit, "negatives/per_query": 99}))


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from retrieval_kd.pipeline.compose import compose; "
        "from retrieval_kd.pipeline.compatibility import check; check(compose(['seed=1'])); "
        "print([name for name in ('torch', 'numpy', 'pytorch_lightning', 'transformers') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
