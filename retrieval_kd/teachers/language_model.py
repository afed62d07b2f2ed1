"""Language models that are asked a question with two answers: how much likelier is the one than the other?"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.functional.precision import autocasts, computed_in
from retrieval_kd.teachers.classifier import classifier_digest, quiet
from retrieval_kd.teachers.prompts import PromptTokenizer
from retrieval_kd.teachers.token_rows import score_by_length

OVERHEAD = 8  # tokens that a prompt must leave to its texts
# On one core a T5-small was a fifth faster by 1,024 tokens than by 4,096; an accelerator wants to be filled.
FAST_TOKENS = {"cpu": 1024, "cuda": 16_384}


class LanguageModel(nn.Module):
    """An encoder-decoder (T5, FLAN) or causal model; its score is log P(answers[0]) / P(answers[1]) after a prompt.

    What is compared is the first token that the model would write, so each answer must be one token.

    Args:
        name: Hub name or folder.
        template: The prompt, with the fields of the subclass in braces.
        answers: The answer that says yes (relevant, the first), and the other one.
        max_length: Of the whole prompt in tokens.
        precision: auto | bf16 | fp32: what the forward pass computes in.
        tokens_per_batch: Padded tokens per forward pass, which change speed and memory, not scores; None: what is fast
            on the device.
    """

    kind = ScoreKind.LOG_ODDS
    stored = True
    fields: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        template: str,
        answers: Sequence[str],
        max_length: int,
        precision: str,
        tokens_per_batch: int | None,
    ) -> None:
        super().__init__()
        self.name = str(name)
        autocasts(precision, "cpu")  # refuses an unknown one before anything is loaded
        config, tokenizer = load_tokenizer(self.name)
        self.answers = answer_tokens(self.name, tokenizer, answers)
        _check_length(self.name, config, max_length)
        if config.is_encoder_decoder and config.decoder_start_token_id is None:
            raise UserError(f"language model {self.name}: its config does not say which token its decoder starts with")
        causal = not config.is_encoder_decoder
        self.prompts = PromptTokenizer(tokenizer, template, self.fields, max_length, left=causal)
        self.model = _load(self.name, AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM)
        self.log_odds = self._after_prompt if causal else self._at_first_step
        self.precision = precision
        self.tokens_per_batch = tokens_per_batch
        accepted = inspect.signature(self.model.forward).parameters
        self._places = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._digest = ""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Weights, tokenizer, template, answers, length, precision."""
        self._digest = self._digest or classifier_digest(self.model, self.prompts.tokenizer)
        settings = (self.prompts.template, str(self.answers), str(self.prompts.max_length))
        precision = computed_in(self.precision, self.device.type)
        return "language_model:" + text_digest(self._digest, *settings, precision)

    def ask(self, *texts: Sequence[str]) -> np.ndarray:
        """float32 [N] log-odds of the prompts that columns of texts fill."""
        who = f"language model {self.name}"
        budget = self.tokens_per_batch or FAST_TOKENS.get(self.device.type, FAST_TOKENS["cuda"])
        return score_by_length(self.prompts, texts, self._inference, budget, who)

    @torch.inference_mode()
    def _inference(self, group: dict[str, Tensor]) -> Tensor:
        device = self.device
        half = autocasts(self.precision, device.type)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            logits = self.log_odds({name: x.to(device) for name, x in group.items()})
        yes, no = logits[:, -1, self.answers].float().unbind(1)
        return yes - no

    def _at_first_step(self, group: dict[str, Tensor]) -> Tensor:
        """Logits of the decoder's first step [n, 1, V]."""
        start = self.model.config.decoder_start_token_id
        begun = torch.full((len(group["input_ids"]), 1), start, device=group["input_ids"].device)
        logits: Tensor = self.model(**group, decoder_input_ids=begun, use_cache=False).logits
        return logits

    def _after_prompt(self, group: dict[str, Tensor]) -> Tensor:
        """Logits behind prompts that are padded on the left [n, 1 or L, V]."""
        mask = group["attention_mask"]
        # Counted by the tokens that are there: by default positions would count the padding too.
        places = {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)} if self._places else {}
        logits: Tensor = self.model(**group, **places, **self._last_only, use_cache=False).logits
        return logits


class PointwisePrompt(LanguageModel):
    """A ``Scorer``: is this passage an answer to the query?"""

    fields = ("query", "passage")

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N] log-odds."""
        return self.ask(queries, passages)


class PairwisePrompt(LanguageModel):
    """A ``PairScorer``: which of these two passages is the better answer?"""

    fields = ("query", "first", "second")

    def score(self, queries: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        """float32 [N] log-odds of the first over the second."""
        return self.ask(queries, firsts, seconds)


def load_tokenizer(name: str) -> tuple[Any, Any]:
    """Configuration and fast tokenizer of a language model."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"language model {name}: {' '.join(str(error).split())}") from error
    if not tokenizer.is_fast:
        raise UserError(f"language model {name}: only a slow tokenizer; a fast one (tokenizer.json) is needed")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise UserError(f"language model {name}: its tokenizer has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return config, tokenizer


def answer_tokens(name: str, tokenizer: Any, answers: Sequence[str]) -> list[int]:
    """The one token of each of two answers."""
    if len(answers) != 2:
        raise UserError(f"answers={list(answers)}: two are needed, the one that says yes first")
    found = []
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            pieces = " + ".join(map(repr, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
            raise UserError(
                f"answers: the tokenizer of {name} makes {pieces} of {answer!r}; an answer must be one known token"
                " (some tokenizers need the blank before it: ' A')"
            )
        found += ids
    if found[0] == found[1]:
        raise UserError(f"answers={list(answers)} are one and the same token to {name}; two different ones are needed")
    return found


def _load(name: str, kind: Any) -> Any:
    try:
        with quiet():
            model, info = kind.from_pretrained(
                name,
                dtype=torch.float32,  # by default the checkpoint's own, which may be half precision
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split()).partition(" Model type should be")[0]  # of some two hundred
        raise UserError(f"language model {name}: {told}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"language model {name}: weights are not in the checkpoint ({missing}), it would answer noise")
    return model.eval()


def _check_length(name: str, config: Any, max_length: int) -> None:
    limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
    if not OVERHEAD <= max_length <= limit:
        raise UserError(f"language model {name}: max_length={max_length} is not within {OVERHEAD} and {limit}")
