"""The late-interaction student: a vector for each token, and a score that sums each query token's best match."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retrieval_kd.contracts import Representations, Side, TokenGroup, UserError
from retrieval_kd.data import marked_tokens
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.marked_tokens import MarkedTokenizer, Marking, skipped_ids
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.functional.late_interaction import inside, max_sim
from retrieval_kd.functional.precision import computed_in
from retrieval_kd.functional.similarity import unit_length
from retrieval_kd.students.backbone import check_positions, load_encoder, load_tokenizer, weights_digest
from retrieval_kd.students.bi_encoder import EncoderSource
from retrieval_kd.students.student import Inference, Student
from retrieval_kd.students.token_projection import load_projection

SKIPS: dict[str, Sequence[str]] = {"punctuation": tuple(string.punctuation), "none": ()}
MARKER_SPREAD = 0.02  # of a new marker's embedding around the mean of all


class LateInteraction(Student):
    """Projected token states of length one; skipped tokens of passages are encoded, and neither scored nor stored."""

    tokenizer: MarkedTokenizer
    _skipped: Tensor  # [V] bool

    def __init__(
        self,
        encoder: PreTrainedModel,
        projection: nn.Linear,
        tokenizer: MarkedTokenizer,
        inference: Inference,
        skip: Sequence[str],
    ) -> None:
        super().__init__(tokenizer, inference)
        check_positions(encoder, tokenizer.sides)
        self.encoder = encoder
        self.projection = projection
        self.skip = tuple(skip)
        skipped = torch.zeros(len(_embeddings(encoder)), dtype=torch.bool)
        skipped[list(skipped_ids(tokenizer.tokenizer, skip).values())] = True
        self.register_buffer("_skipped", skipped, persistent=False)

    def encode_group(self, group: TokenGroup, side: Side) -> Representations:
        """``{"tokens": [n, L, D], "lengths": [n]}``: what is scored of each text, the rest taken out."""
        states = self.encoder(input_ids=group.input_ids, attention_mask=group.attention_mask).last_hidden_state
        kept = self.tokenizer.scored(group, side)
        if side is Side.PASSAGE:
            kept = kept & ~self._skipped[group.input_ids]
        lengths = kept.sum(1)
        vectors = unit_length(self.projection(states[kept]).float())
        tokens = vectors.new_zeros(len(lengths), int(lengths.max()), vectors.shape[1])
        tokens[inside(lengths, tokens.shape[1])] = vectors
        return {"tokens": tokens, "lengths": lengths, **self._words(group, states, side)}

    def _words(self, group: TokenGroup, states: Tensor, side: Side) -> Representations:
        """Vectors of all words, those too that are not scored: the teacher reads them."""
        words = self.words(group, states, side)
        return words and {**words, "words": unit_length(self.projection(words["words"]).float())}

    def compare(self, queries: Representations, passages: Representations) -> Tensor:
        """MaxSim in float32."""
        return max_sim(queries["tokens"], queries["lengths"], passages["tokens"], passages["lengths"])

    @property
    def fingerprint(self) -> str:
        """Weights of encoder and projection, markers, masks, skipped tokens, prompts, lengths, inference precision."""
        settings = [f"{side}:{value}" for side, value in self.tokenizer.sides.items()]
        precision = computed_in(self.inference.precision, self.device.type)
        digests = weights_digest(self.encoder), weights_digest(self.projection)
        marking = str(self.tokenizer.marking)
        return "late_interaction:" + text_digest(*digests, marking, str(self.skip), precision, *settings)


def build_late_interaction(  # noqa: PLR0913 - one argument for each key of the option
    encoder: EncoderSource | Mapping[str, Any],
    dimensions: int,
    markers: Mapping[str, str | None],
    add_markers: bool,
    augment: bool,
    attend_to_mask: bool,
    skip: str | Sequence[str],
    query: SideSettings | Mapping[str, Any],
    passage: SideSettings | Mapping[str, Any],
    inference: Inference | Mapping[str, Any],
) -> LateInteraction:
    """A late-interaction student from a checkpoint, with a projection of its own or without.

    Args:
        encoder: Checkpoint.
        dimensions: Size of a token's vector.
        markers: The token that tells a query, and the one that tells a passage; none where it is empty.
        add_markers: Whether markers that the tokenizer lacks are added to it.
        augment: Whether queries are filled up with masks.
        attend_to_mask: Whether other tokens see them.
        skip: Tokens of passages that are not scored: punctuation, none, or which.
        query: Prompt and length of queries.
        passage: Prompt and length of passages.
        inference: How texts are encoded outside training.
    """
    source = encoder if isinstance(encoder, EncoderSource) else EncoderSource(**encoder)
    marking = Marking(markers.get("query") or "", markers.get("passage") or "", augment, attend_to_mask)
    words = skipped_words(skip)
    checkpoint = resolve_encoder(source.name, source.path)
    tokenizer = load_tokenizer(checkpoint)
    model = load_encoder(checkpoint, source.layers)
    if add_markers:
        _learn_markers(model, tokenizer, marking)
    sides = [side if isinstance(side, SideSettings) else SideSettings(**side) for side in (query, passage)]
    return LateInteraction(
        encoder=model,
        projection=load_projection(checkpoint, model.config.hidden_size, dimensions),
        tokenizer=MarkedTokenizer(tokenizer, sides[0], sides[1], marking),
        inference=inference if isinstance(inference, Inference) else Inference(**inference),
        skip=words,
    )


def skipped_words(skip: str | Sequence[str]) -> Sequence[str]:
    """The tokens that ``student.skip`` means."""
    if not isinstance(skip, str):
        return tuple(skip)
    if skip not in SKIPS:
        raise UserError(f"student.skip={skip}: it is {', '.join(SKIPS)} or a list of tokens")
    return SKIPS[skip]


def _learn_markers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, marking: Marking) -> None:
    """Embeddings of new markers begin near the mean of all, the same every time."""
    rows = marked_tokens.add_markers(tokenizer, [marking.query, marking.passage])
    if not rows:
        return
    mean = _embeddings(model).detach().mean(0)
    if len(tokenizer) > len(_embeddings(model)):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        spread = MARKER_SPREAD * torch.randn(len(rows), len(mean), generator=generator)
        _embeddings(model)[rows] = mean + spread


def _embeddings(model: PreTrainedModel) -> Tensor:
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    return embeddings.weight
