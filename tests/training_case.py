"""A small world to train in: 14 queries, 40 passages, teacher scores with holes, and a tiny student.

Queries share passages: what is one query's positive is another's hard candidate. Query q12 has no judgement, q13 has
three. Imported by tests and by the processes that they start.
"""

import copy
import json
from functools import cache

import numpy as np
import pytorch_lightning as pl
import torch

from retrieval_kd.contracts import DARK_ROLES, Attention, Passage, Role
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.pairs import BACKWARD, FORWARD, Pairs, place
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.data.sampler import EpochBatches, ResumableLoader
from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet
from retrieval_kd.data.weights import TINY_WORDS

WORDS = TINY_WORDS.split()
QUERIES = 14
PASSAGES = 40
SIDES = {
    "query": {"prompt": "find ", "max_length": 12},
    "passage": {"prompt": "", "max_length": 24},
}


def make_texts(count, seed, low=2, high=40):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(low, high))) for _ in range(count)]


def make_candidates(dark=False):
    """Lists of 1 to 3 positives and 7 hard ones, and the judgements; q0's positive p0 is hard for q1, q2 and q3.

    With ``dark``, two made passages for each query; one of them was made for q4 and q5 alike.
    """
    generator = np.random.default_rng(5)
    judgements, lists = {}, []
    for query in range(QUERIES):
        positives = [f"p{query}"] if query < 12 else [] if query == 12 else ["p13", "p14", "p15"]
        if positives:
            judgements[f"q{query}"] = dict.fromkeys(positives, 1) | {"p39": 0}
        shared = ["p0"] if query in (1, 2, 3) else []
        if query == 4:
            judgements["q4"]["p5"] = 2  # positive without being a candidate; q5's list brings it into the batch
        free = [f"p{i}" for i in range(PASSAGES) if f"p{i}" not in judgements.get(f"q{query}", {}) and i != 0]
        hard = shared + list(generator.choice(free, 7 - len(shared), replace=False))
        rows = [Candidate(str(p), Role.POSITIVE, 0, "judged", 0, 1) for p in positives]
        rows += [Candidate(str(p), Role.HARD, rank, "bm25", 0, 0) for rank, p in enumerate(hard, 1)]
        made = [f"dark:{4 if query == 5 else query}", f"dark:masked-{query}"] if dark else []
        rows += [Candidate(p, role, 0, "made", 0, 0) for p, role in zip(made, DARK_ROLES, strict=False)]
        lists.append((f"q{query}", rows))
    return Candidates.from_lists(lists), judgements


def make_pairs(candidates):
    """Six pairs of each query but q3, most in both orders; the last of them is of two positives where there are two."""
    generator = np.random.default_rng(8)
    rows = []
    for one in candidates.lists():
        for number in range(0 if one.query_id == "q3" else 6):
            i, j = one.passage_ids[:2] if number == 5 else generator.choice(one.passage_ids, 2, replace=False).tolist()
            orders = (FORWARD, BACKWARD) if number % 3 else (FORWARD,)
            rows += [(one.query_id, i, j, order, float(generator.normal() * 3), "judge") for order in orders]
    *ids, log_odds, teacher = map(list, zip(*rows, strict=True))
    return Pairs(*ids, np.array(log_odds, np.float32), teacher)


def make_training_set(folder, per_query=4, seed=3, paired=False, dark=False):
    candidates, judgements = make_candidates(dark)
    ids = [*(f"p{i}" for i in range(PASSAGES)), *sorted({p for p in candidates.passage_ids if p.startswith("dark:")})]
    texts = zip(ids, make_texts(len(ids), 1), strict=True)
    store = PassageStore.build(folder / "passages", (Passage(name, "", text) for name, text in texts))
    generator = np.random.default_rng(6)
    members = generator.normal(size=(2, len(candidates))).astype(np.float32)
    scores = members.sum(0)
    scores[generator.random(len(scores)) < 0.1] = np.nan
    queries = dict(zip([f"q{i}" for i in range(QUERIES)], make_texts(QUERIES, 2, 2, 9), strict=True))
    pairs = place(make_pairs(candidates), candidates, "pairs") if paired else None
    signalled = Signalled(scores, members, pairs)
    return TrainingSet(queries, judgements, candidates, store, signalled, Draw(per_query, seed, 2))


@cache
def _built(settings):
    from retrieval_kd.students.bi_encoder import build_bi_encoder

    with torch.random.fork_rng(devices=[]):
        return build_bi_encoder(**json.loads(settings))


def make_student(checkpoint, dropout=True, **changes):
    """A copy of what is read from the folder once: reading takes longer than most tests."""
    settings = {"shared": True, "pooling": "mean", "similarity": "cosine", **SIDES}
    settings |= {"encoder": {"name": str(checkpoint), "layers": None}}
    settings |= {"inference": {"precision": "fp32", "tokens_per_batch": 512}}
    student = copy.deepcopy(_built(json.dumps(settings | changes)))
    if not dropout:
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return student


class SineTeacher:
    """A white box whose attention depends on the token ids alone."""

    def attention(self, pairs, averaged):
        across = torch.sin(1.0 + pairs.queries[:, None, :, None] * pairs.passages[:, None, None, :]).exp()
        return Attention(across / 999, across.transpose(-1, -2) / 999, pairs.passage_lengths)

    def features(self, pairs):
        sums = [
            ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], 0).sum(1)
            for ids, lengths in ((pairs.queries, pairs.query_lengths), (pairs.passages, pairs.passage_lengths))
        ]
        return torch.sin(sums[0][:, None] + sums[1][:, None] * torch.arange(1.0, 6.0))


def make_training(names=("contrastive", "listwise_kl"), gradient_cache=False, lr=1e-3, temperature=0.05, **parts):
    from retrieval_kd.filters.none import KeepAll
    from retrieval_kd.objectives.contrastive import Contrastive
    from retrieval_kd.objectives.listwise_kl import ListwiseKL
    from retrieval_kd.objectives.margin_mse import MarginMSE
    from retrieval_kd.objectives.pairwise import Pairwise
    from retrieval_kd.objectives.passage_centric import FORMS, PassageCentric
    from retrieval_kd.objectives.ranknet import RankNet
    from retrieval_kd.objectives.sentence_features import SentenceFeatures
    from retrieval_kd.objectives.weighted_sum import WeightedSum
    from retrieval_kd.objectives.word_level import WordLevel
    from retrieval_kd.pacing.none import Constant
    from retrieval_kd.regularizers.none import NoPenalty
    from retrieval_kd.students.student import Training

    terms = {
        "contrastive": Contrastive(temperature, in_batch=True),
        "listwise_kl": ListwiseKL(temperature, 1.0, "exclude"),
        "listwise_kl_zero": ListwiseKL(temperature, 1.0, "zero"),
        "margin_mse": MarginMSE(10.0, 1.0),
        "pairwise": Pairwise(temperature, 1.0, "pairs"),
        "pairwise_of_queries": Pairwise(temperature, 1.0, "queries"),
        "ranknet": RankNet(temperature, "pairs"),
        "sentence_features": SentenceFeatures(SineTeacher, (32, 5), 2),
        "word_level": WordLevel(SineTeacher, 2, "averaged", True, "cosine", temperature),
        **{f"passage_centric_{form}": PassageCentric(temperature, form, in_batch=True) for form in FORMS},
    }
    chosen = {name: terms[name] for name in names}
    given = {
        "objective": WeightedSum(chosen, dict.fromkeys(chosen, 1.0)),
        "filter": KeepAll(),
        "pacing": Constant(),
        "regularizer": NoPenalty(),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=lr),
    }
    return Training(**given | parts, warmup=0.1, gradient_cache=gradient_cache)


def make_trainer(callbacks=(), **settings):
    """A trainer on the processor that writes nothing but the checkpoints of a callback."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet["enable_checkpointing"] = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet | settings)


def fit(student, training_set, callbacks, batch_size=4, workers=0, resume=None, **settings):
    """Train a prepared student, from a checkpoint if one is given; the trainer."""
    batches = EpochBatches(len(training_set), batch_size, training_set.draw.seed)
    loader = ResumableLoader(batches, BatchMaker(training_set, student.tokenizer), workers)
    trainer = make_trainer(callbacks, use_distributed_sampler=False, **settings)
    trainer.fit(student, loader, ckpt_path=resume, weights_only=True)
    return trainer


def make_batch(training_set, student, queries, epoch=0):
    return BatchMaker(training_set, student.tokenizer)([(query, epoch) for query in queries])
