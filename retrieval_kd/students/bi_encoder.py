"""The dense student: one vector per text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from retrieval_kd.contracts import Representations, Side, TokenGroup, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.functional.precision import computed_in
from retrieval_kd.functional.similarity import first_token, inner_products, mean_pool, unit_length
from retrieval_kd.students.backbone import check_positions, load_encoder, load_tokenizer, weights_digest
from retrieval_kd.students.student import Inference, Student

POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_pool, "cls": first_token}


class BiEncoder(Student):
    """Pooled token states of a Hugging Face encoder; queries and passages share it unless ``shared=False``."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: TextTokenizer,
        inference: Inference,
        pooling: str,
        cosine: bool,
        query_encoder: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(tokenizer, inference)
        if pooling not in POOLING:
            raise UserError(f"student.pooling={pooling}: it is {' or '.join(POOLING)}")
        check_positions(encoder, tokenizer.sides)
        self.encoder = encoder
        self.query_encoder = query_encoder
        self.pooling = pooling
        self.cosine = cosine

    def encode_group(self, group: TokenGroup, side: Side) -> Representations:
        """``{"vectors": [n, D]}``, pooled in float32."""
        separate = side is Side.QUERY and self.query_encoder is not None
        encoder = self.query_encoder if separate else self.encoder
        assert encoder is not None
        states = encoder(input_ids=group.input_ids, attention_mask=group.attention_mask).last_hidden_state
        vectors = POOLING[self.pooling](states, group.attention_mask)
        return {"vectors": unit_length(vectors) if self.cosine else vectors, **self.words(group, states, side)}

    def compare(self, queries: Representations, passages: Representations) -> Tensor:
        """Inner products; cosines where vectors have length one."""
        return inner_products(queries["vectors"], passages["vectors"])

    @property
    def fingerprint(self) -> str:
        """Weights, pooling, similarity, prompts, lengths and inference precision."""
        encoders = [weights_digest(e) for e in (self.encoder, self.query_encoder) if isinstance(e, nn.Module)]
        settings = [f"{side}:{value}" for side, value in self.tokenizer.sides.items()]
        precision = computed_in(self.inference.precision, self.device.type)
        return "bi_encoder:" + text_digest(*encoders, self.pooling, str(self.cosine), precision, *settings)


@dataclass(frozen=True)
class EncoderSource:
    """Which checkpoint a student starts from, and how much of it is kept."""

    name: str
    layers: int | None
    path: str | None = None


def build_bi_encoder(
    encoder: EncoderSource | Mapping[str, Any],
    shared: bool,
    pooling: str,
    similarity: str,
    query: SideSettings | Mapping[str, Any],
    passage: SideSettings | Mapping[str, Any],
    inference: Inference | Mapping[str, Any],
) -> BiEncoder:
    """A dense student from a checkpoint; separate encoders start equal."""
    source = encoder if isinstance(encoder, EncoderSource) else EncoderSource(**encoder)
    checkpoint = resolve_encoder(source.name, source.path)
    similarity_is_known(similarity)
    tokenizer = TextTokenizer(load_tokenizer(checkpoint), _settings(query), _settings(passage))
    return BiEncoder(
        encoder=load_encoder(checkpoint, source.layers),
        query_encoder=None if shared else load_encoder(checkpoint, source.layers),
        tokenizer=tokenizer,
        inference=inference if isinstance(inference, Inference) else Inference(**inference),
        pooling=pooling,
        cosine=similarity == "cosine",
    )


def similarity_is_known(similarity: str) -> None:
    """Refuse anything but the two ways in which vectors are compared."""
    if similarity not in ("cosine", "dot"):
        raise UserError(f"student.similarity={similarity}: it is cosine or dot")


def _settings(side: SideSettings | Mapping[str, Any]) -> SideSettings:
    return side if isinstance(side, SideSettings) else SideSettings(**side)
