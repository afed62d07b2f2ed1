"""The cross-encoders whose attention or features are learned from: they must read the very tokens of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval_kd.contracts import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from retrieval_kd.pipeline.plan import Plan
    from retrieval_kd.students.student import Student
    from retrieval_kd.teachers.shared_out import SharedOut


def white_box(plan: Plan, student: Student, term: str) -> SharedOut:
    """The teacher of a term that asks what is within it, for training runs it beside the student."""
    from retrieval_kd.teachers.shared_out import SharedOut  # here: planning does without torch

    own = plan.parts.own_teachers.get(term)
    steps = plan.candidates if own is None else plan.candidates.by(own)
    (teacher,) = steps.teacher(plan.train_entries[0]).members.values()
    given: Any = teacher
    _refuse_other_tokens(plan, term, student.tokenizer.tokenizer, given.tokenizer)
    return SharedOut(given)


def check_white_boxes(plan: Plan) -> None:
    """Refuse teachers that do not fit the student, before they are trained or asked; no weights are read."""
    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.students.backbone import load_tokenizer

    encoder = plan.values["encoder"]
    for term in plan.parts.of_tokens:
        student = load_tokenizer(resolve_encoder(encoder["name"], encoder["path"]))
        teacher = resolve_encoder(scorer_of(plan, term)["name"])
        _refuse_other_tokens(plan, term, student, load_tokenizer(teacher))
        if plan.values["objective"][term].get("heads") == "matched":
            _refuse_other_heads(plan, term, str(resolve_encoder(encoder["name"], encoder["path"])), str(teacher))


def feature_sizes(values: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[int, int]:
    """Dimensions of the student's vectors and of a white box's states; of both no weights are read."""
    from transformers import AutoConfig

    from retrieval_kd.data.weights import resolve_encoder

    encoder, scorer = values["encoder"], teacher.get("base", teacher)["scorer"]
    places = resolve_encoder(encoder["name"], encoder["path"]), resolve_encoder(scorer["name"])
    student, white = (int(AutoConfig.from_pretrained(str(place)).hidden_size) for place in places)
    return student, white


def scorer_of(plan: Plan, term: str) -> dict[str, Any]:
    """The node of the cross-encoder that a term asks."""
    _, teacher = plan.parts.teacher_of(term)
    scorer: dict[str, Any] = teacher.get("base", teacher)["scorer"]
    return scorer


def _refuse_other_tokens(
    plan: Plan, term: str, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> None:
    from retrieval_kd.data.tokenize import same_tokens

    if same_tokens(student, teacher):
        return
    key, _ = plan.parts.teacher_of(term)
    name, asked = plan.values["encoder"]["name"], scorer_of(plan, term)["name"]
    raise UserError(
        f"objective.{term} shows its teacher the student's tokens, and {key}.scorer.name={asked}"
        f" reads other tokens than encoder.name={name}; a cross-encoder with the tokenizer of {name} would fit"
    )


def _refuse_other_heads(plan: Plan, term: str, student: str, teacher: str) -> None:
    """Heads share the dimensions of the student's tokens among them."""
    from transformers import AutoConfig

    heads = AutoConfig.from_pretrained(teacher).num_attention_heads
    dimensions = plan.values["student"].get("dimensions") or AutoConfig.from_pretrained(student).hidden_size
    if dimensions % heads:
        key, _ = plan.parts.teacher_of(term)
        raise UserError(
            f"objective.{term}.heads=matched: the student's tokens have {dimensions} dimensions, which {heads} heads of"
            f" {key} do not divide; objective.{term}.heads=averaged would fit"
        )
