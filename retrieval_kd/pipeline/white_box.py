"""The cross-encoder whose attention is learned from: it must read the very tokens of the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from retrieval_kd.contracts import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from retrieval_kd.contracts import AttentionTeacher
    from retrieval_kd.pipeline.plan import Plan
    from retrieval_kd.students.student import Student


def white_box(plan: Plan, student: Student) -> AttentionTeacher:
    """The plan's teacher, for training runs it beside the student."""
    (teacher,) = plan.candidates.teacher(plan.train_entries[0]).members.values()
    given: Any = teacher
    _refuse_other_tokens(plan, student.tokenizer.tokenizer, given.tokenizer)
    return cast("AttentionTeacher", given)


def check_tokens(plan: Plan) -> None:
    """Refuse a teacher of other tokens before it is trained or asked; the tokenizers alone are read."""
    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.students.backbone import load_tokenizer

    encoder, (scorer,) = plan.values["encoder"], plan.parts.scorers.values()
    student = load_tokenizer(resolve_encoder(encoder["name"], encoder["path"]))
    _refuse_other_tokens(plan, student, load_tokenizer(resolve_encoder(scorer["name"])))


def _refuse_other_tokens(plan: Plan, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    from retrieval_kd.data.tokenize import same_tokens

    if same_tokens(student, teacher):
        return
    (scorer,) = plan.parts.scorers.values()
    terms = [name for name, node in plan.values["objective"].items() if "attention" in node.get("needs", ())]
    raise UserError(
        f"objective.{terms[0]} compares attention token by token, and the teacher's {scorer['name']} reads other tokens"
        f" than encoder.name={plan.values['encoder']['name']}; a cross-encoder with the tokenizer of"
        f" {plan.values['encoder']['name']} would fit"
    )
