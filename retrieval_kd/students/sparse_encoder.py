"""The sparse student: a weight for each term of the vocabulary; queries need no model, unless they shall."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from retrieval_kd.contracts import PassageTexts, Representations, Side, TokenGroup, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.data.progress import track
from retrieval_kd.data.token_weights import PlainTokens, read_token_weights, special_ids, tokenizer_vocabulary
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.functional.max_head import CHUNK, max_logits, max_products
from retrieval_kd.functional.precision import computed_in
from retrieval_kd.functional.similarity import inner_products
from retrieval_kd.functional.sparsity import active_terms, dense_terms, log_activation, padded_terms
from retrieval_kd.students.backbone import check_positions, load_tokenizer, weights_digest
from retrieval_kd.students.bi_encoder import EncoderSource
from retrieval_kd.students.mlm_head import MlmHead, load_with_head
from retrieval_kd.students.student import Inference, Student

log = logging.getLogger(__name__)

FROM_TABLE = ("idf", "file", "learned")  # kinds of query weights that start from a table
QUERY_WEIGHTS = ("binary", *FROM_TABLE, "encoder")
CUDA_CHUNK = 4096  # there launching many small products costs more than leaving the cache
PASSAGES_AT_ONCE = 1024  # padded passages that are made dense to be compared
CALIBRATION = 256  # passages that the start is calibrated on


@dataclass(frozen=True)
class Sparsity:
    """What makes representations sparse, and what queries weigh."""

    query_weights: str  # binary | idf | file | learned: a table, no model; encoder: queries are encoded like passages
    logs: int  # 1: log(1 + x), 2: log(1 + log(1 + x))
    prune: float  # entries of at most this share of a text's largest are dropped, outside training

    def __post_init__(self) -> None:
        if self.query_weights not in QUERY_WEIGHTS:
            one_of = f"{', '.join(QUERY_WEIGHTS[:-1])} or {QUERY_WEIGHTS[-1]}"
            raise UserError(f"student.query_weights={self.query_weights}: it is {one_of}")
        if self.logs not in (1, 2):
            raise UserError(f"student.logs={self.logs}: it is 1 or 2")
        if not 0 <= self.prune < 1:
            raise UserError(f"student.prune={self.prune}: a share from 0 to below 1 is expected")


class SparseEncoder(Student):
    """Max-pooled logits of a masked-LM head, damped by logarithms; special tokens weigh nothing on both sides."""

    query_table: Tensor | None  # [V]; None where queries are encoded
    _silence: Tensor  # [V], minus infinity where nothing may be active

    def __init__(
        self,
        encoder: PreTrainedModel,
        head: MlmHead,
        tokenizer: TextTokenizer,
        inference: Inference,
        sparsity: Sparsity,
        token_weights: np.ndarray | None = None,
    ) -> None:
        super().__init__(tokenizer, inference)
        encoded = (Side.PASSAGE, Side.QUERY) if sparsity.query_weights == "encoder" else (Side.PASSAGE,)
        check_positions(encoder, {side: tokenizer.sides[side] for side in encoded})
        self.encoder = encoder
        self.head = head
        self.query_weights = sparsity.query_weights
        self.logs = sparsity.logs
        self.prune = sparsity.prune
        self.vocabulary = _vocabulary(tokenizer, len(head.bias))
        silent = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        silent[special_ids(tokenizer.tokenizer)] = True
        silent[len(tokenizer.tokenizer) :] = True  # rows that fill a matrix up, and belong to no token
        self.register_buffer("_silence", torch.zeros(len(silent)).masked_fill(silent, -torch.inf), persistent=False)
        self._add_query_table(silent, token_weights)
        self._plain = PlainTokens(tokenizer.tokenizer)
        self._added = int(tokenizer.tokenizer.num_special_tokens_to_add(pair=False))

    def _add_query_table(self, silent: Tensor, token_weights: np.ndarray | None) -> None:
        table = None
        if self.query_weights == "binary":
            table = torch.ones(len(silent))
        elif self.query_weights != "encoder":
            table = _checked(self.query_weights, token_weights, len(self.tokenizer.tokenizer), len(silent))
        table = None if table is None else table.masked_fill(silent, 0.0)
        if self.query_weights == "learned":
            self.query_table = nn.Parameter(table)  # type: ignore[arg-type]
        else:
            self.register_buffer("query_table", table)

    def encode_group(self, group: TokenGroup, side: Side) -> Representations:
        """``{"activations": [n, V]}``: of a query which terms it holds, times their weights; of a passage all terms."""
        if side is Side.QUERY and self.query_table is not None:
            presence = self.query_table.new_zeros(len(group.input_ids), len(self.vocabulary))
            # Padding is a special token, and weighs nothing.
            return {"activations": presence.scatter_(1, group.input_ids, 1.0) * self.query_table.relu()}
        states, text = self._states(group)
        bias = self.head.bias + self._silence
        chunk = CHUNK if states.device.type == "cpu" else CUDA_CHUNK
        logits = max_logits(states, text, len(group.input_ids), self.head.decoder_weight, bias, chunk)
        return {"activations": log_activation(logits, self.logs)}

    def _states(self, group: TokenGroup) -> tuple[Tensor, Tensor]:
        """Transformed states of the tokens that are no padding [T, D], and which text each belongs to [T]."""
        states = self.encoder(input_ids=group.input_ids, attention_mask=group.attention_mask).last_hidden_state
        kept = group.attention_mask.flatten().nonzero().squeeze(1)
        text = torch.div(kept, group.attention_mask.shape[1], rounding_mode="floor")
        return self.head.transform(states.flatten(0, 1).index_select(0, kept)), text

    def watched(self, passages: Representations) -> dict[str, Tensor]:
        """The mean number of active terms."""
        return {"passage_terms": active_terms(passages["activations"]).mean()}

    def stored(self, representations: Representations) -> Representations:
        """Dense activations, pruned, as ``terms``, ``weights`` [N, K] and ``lengths`` [N]; terms rise in each row."""
        return padded_terms(representations["activations"].float(), self.prune)

    def encode_texts(self, texts: Sequence[str], side: Side) -> Representations:
        """Padded terms, weights and lengths on the CPU, in the order given; queries by the table where there is one."""
        if side is Side.QUERY and self.query_table is not None:
            return self.query_terms(texts)
        found = super().encode_texts(texts, side)
        empty = int((found["lengths"] == 0).sum())
        if empty:
            log.warning("%d of %d texts (%s side) have no active term: nothing finds them", empty, len(texts), side)
        return found

    def query_terms(self, texts: Sequence[str]) -> Representations:
        """What ``encode_texts`` gives for queries, from tokenizer and table alone."""
        if self.query_table is None:
            raise ValueError("queries of this student are encoded by its model")
        table = self.query_table.detach().cpu().numpy()
        rows = [_heavy(ids, table) for ids in self._query_ids(texts)]
        lengths = np.array([len(terms) for terms, _ in rows], np.int64)
        if len(rows) == 1:  # a single query, whose latency counts, has no padding
            padded = rows[0][0][None], rows[0][1][None]
        else:
            shape = (len(rows), int(lengths.max(initial=0)))
            padded = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
            for row, (terms, weights) in enumerate(rows):
                padded[0][row, : len(terms)], padded[1][row, : len(terms)] = terms, weights
        arrays = {"terms": padded[0], "weights": padded[1], "lengths": lengths}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def refitted(self, token_weights: np.ndarray) -> SparseEncoder:
        """This student with the IDF of another collection in its queries; what it makes of passages is the same."""
        if self.query_weights != "idf":
            raise UserError(
                f"student.refit=true is for student.query_weights=idf; with {self.query_weights} nothing is fitted"
            )
        silent = (self._silence != 0).cpu()
        table = _checked("idf", token_weights, len(self.tokenizer.tokenizer), len(silent))
        other = copy.copy(self)
        other._buffers = {**self._buffers, "query_table": table.masked_fill(silent, 0.0).to(self.device)}
        return other

    def _query_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Those of the tokenizer without its special tokens, which weigh nothing; cut where it would cut."""
        settings, tokenizer = self.tokenizer.sides[Side.QUERY], self.tokenizer.tokenizer
        ids = self._plain([settings.prompt + text for text in texts] if settings.prompt else texts)
        limit = max(0, settings.max_length - self._added)
        if tokenizer.truncation_side == "left":
            return [row[-limit:] if limit else [] for row in ids]
        return [row[:limit] for row in ids]

    def compare(self, queries: Representations, passages: Representations) -> Tensor:
        """Inner products in float32, of dense or padded representations."""
        left = self._dense(queries)
        if "activations" in passages:
            return inner_products(left, passages["activations"])
        rows = (passages[name].split(PASSAGES_AT_ONCE) for name in ("terms", "weights"))
        size = len(self.vocabulary)
        parts = [inner_products(left, dense_terms(terms, weights, size)) for terms, weights in zip(*rows, strict=True)]
        return torch.cat(parts, 1)

    def _dense(self, representations: Representations) -> Tensor:
        if "activations" in representations:
            return representations["activations"]
        return dense_terms(representations["terms"], representations["weights"], len(self.vocabulary))

    @property
    def fingerprint(self) -> str:
        """Weights of encoder and head, query weights, activation, prompts, lengths and inference precision."""
        values = b"" if self.query_table is None else self.query_table.detach().relu().cpu().numpy().tobytes()
        table = text_digest(values.hex())
        settings = [f"{side}:{value}" for side, value in self.tokenizer.sides.items()]
        own = [self.query_weights, table, str(self.logs), str(self.prune)]
        precision = computed_in(self.inference.precision, self.device.type)
        digests = weights_digest(self.encoder), weights_digest(self.head)
        return "sparse_encoder:" + text_digest(*digests, *own, precision, *settings)

    @torch.no_grad()
    def calibrate(self, texts: Sequence[str], terms: float) -> float:
        """Shift the bias so that ``texts`` have ``terms`` active terms in the mean, before pruning; the shift.

        An embedding matrix as decoder gives logits whose zero means nothing: without a shift nearly all are active.
        """
        ordinary = int((self._silence == 0).sum())
        if not texts:
            raise UserError("student.start_terms: there are no passages to calibrate on")
        if not 1 <= terms < ordinary:
            raise UserError(f"student.start_terms={terms}: a number from 1 to below {ordinary} is expected")
        tokens = self.tokenizer.groups(
            texts, Side.PASSAGE, lambda lengths: budget_groups(lengths, self.inference.tokens_per_batch)
        )
        training = self.training
        self.eval()
        try:
            maxima = [self._ordinary_maxima(group.to(self.device)) for group in track(tokens.groups, "calibrate")]
        finally:
            self.train(training)
        values = np.concatenate(maxima)
        rank = len(values) - round(terms * len(texts))  # entries that stay at or below 0
        values.partition((rank - 1, rank))  # exact, so nothing has to be searched for
        shift = -(float(values[rank - 1]) + float(values[rank])) / 2
        self.head.bias.add_(shift)
        log.info("the bias is shifted by %.4f: %d passages have %g active terms in the mean", shift, len(texts), terms)
        return shift

    def _ordinary_maxima(self, group: TokenGroup) -> np.ndarray:
        states, text = self._states(group)
        maxima = max_products(states, text, len(group.input_ids), self.head.decoder_weight)
        found: np.ndarray = (maxima + self.head.bias)[:, self._silence == 0].flatten().cpu().numpy()
        return found


def _vocabulary(tokenizer: TextTokenizer, size: int) -> list[str]:
    """Tokens by id; a head may have more rows than there are tokens, which round its size up, but not fewer."""
    tokens = tokenizer_vocabulary(tokenizer.tokenizer)
    if len(tokens) > size:
        raise UserError(
            f"encoder.name: its head knows {size} tokens and its tokenizer {len(tokens)}; resize the embeddings of the "
            "checkpoint"
        )
    return tokens + [f"[no token {row}]" for row in range(len(tokens), size)]


def _heavy(ids: list[int], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different terms of a query that weigh something, and their weights."""
    terms = np.array(sorted(set(ids)), np.int32)
    weights = table[terms]
    if weights.min(initial=1) > 0:
        return terms, weights
    return terms[weights > 0], weights[weights > 0]


def _checked(kind: str, token_weights: np.ndarray | None, tokens: int, size: int) -> Tensor:
    """Weights [V], filled up with 0 where the head has rows beyond the vocabulary."""
    if token_weights is None:
        raise UserError(f"student.query_weights={kind}: student.token_weights is not set; a file of weights would fit")
    weights = np.asarray(token_weights, np.float32)
    if weights.shape not in ((tokens,), (size,)):
        raise UserError(
            f"student.token_weights: {len(weights)} weights for a vocabulary of {tokens} tokens; they are another "
            "tokenizer's"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError("student.token_weights: weights must be finite and not negative")
    return torch.from_numpy(np.pad(weights, (0, size - len(weights))))


def build_sparse_encoder(  # noqa: PLR0913 - one argument for each key of the option
    encoder: EncoderSource | Mapping[str, Any],
    query_weights: str,
    logs: int,
    prune: float,
    query: SideSettings | Mapping[str, Any],
    passage: SideSettings | Mapping[str, Any],
    inference: Inference | Mapping[str, Any],
    token_weights: np.ndarray | str | Path | None = None,
    passages: PassageTexts | None = None,
    start_terms: float | None = None,
) -> SparseEncoder:
    """A sparse student from a checkpoint.

    Args:
        encoder: Checkpoint, with a masked-LM head or without.
        query_weights: What query terms weigh (``Sparsity``).
        logs: How often activations are damped.
        prune: What is dropped outside training.
        query: Prompt and length of queries.
        passage: Prompt and length of passages.
        inference: How texts are encoded outside training.
        token_weights: Table of query weights, or the file that it is in.
        passages: What ``start_terms`` is calibrated on.
        start_terms: Active terms of a passage to start from, in the mean; None leaves the bias as it is.
    """
    source = encoder if isinstance(encoder, EncoderSource) else EncoderSource(**encoder)
    sparsity = Sparsity(query_weights, logs, prune)
    checkpoint = resolve_encoder(source.name, source.path)
    tokenizer = load_tokenizer(checkpoint)
    if isinstance(token_weights, str | Path):
        token_weights = read_token_weights(Path(token_weights), tokenizer_vocabulary(tokenizer), special_ids(tokenizer))
    model, head = load_with_head(checkpoint, source.layers)
    sides = [side if isinstance(side, SideSettings) else SideSettings(**side) for side in (query, passage)]
    student = SparseEncoder(
        encoder=model,
        head=head,
        tokenizer=TextTokenizer(tokenizer, *sides),
        inference=inference if isinstance(inference, Inference) else Inference(**inference),
        sparsity=sparsity,
        token_weights=token_weights,
    )
    if start_terms is not None:
        if passages is None:
            raise UserError(f"student.start_terms={start_terms}: there are no passages to calibrate on; set it to null")
        rows = np.random.default_rng(0).permutation(len(passages))[:CALIBRATION]
        student.calibrate(passages.texts(np.sort(rows)), start_terms)
    return student
