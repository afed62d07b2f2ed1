"""What each of two processes does in the tests of gathering; the second one imports this module only."""

from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from late_case import make_late
from torch import nn
from training_case import SineTeacher, make_batch, make_student, make_training, make_training_set

from retrieval_kd.contracts import Side
from retrieval_kd.filters.dynamic import Dynamic
from retrieval_kd.pacing.self_paced import SelfPaced
from retrieval_kd.students.bi_encoder import BiEncoder
from retrieval_kd.students.gather import gather_pool
from retrieval_kd.students.late_interaction import LateInteraction
from retrieval_kd.teachers.shared_out import SharedOut

QUERIES = [0, 1, 4, 5, 2, 12, 13]  # every second one to the second process
CASES = {
    "contrastive": {"names": ["contrastive"]},
    "listwise_kl": {"names": ["listwise_kl"]},
    "listwise_kl_zero": {"names": ["listwise_kl_zero"]},
    "margin_mse": {"names": ["margin_mse"]},
    "pairwise": {"names": ["pairwise"], "paired": True},
    "pairwise_of_queries": {"names": ["pairwise_of_queries", "ranknet"], "paired": True},
    "all, cached, an encoder per side": {
        "names": ["contrastive", "listwise_kl", "margin_mse"],
        "gradient_cache": True,
        "shared": False,
    },
    "late interaction, cached": {"names": ["contrastive", "listwise_kl"], "gradient_cache": True, "late": True},
    "self-paced": {"names": ["listwise_kl", "contrastive"], "paced": True},
    "passage_centric_paper": {"names": ["passage_centric_paper"]},
    "passage_centric, cached": {
        "names": ["contrastive", "passage_centric_released", "passage_centric_joint"],
        "gradient_cache": True,
    },
    "word_level, cached": {"names": ["contrastive", "word_level"], "gradient_cache": True},
    "word_level, late interaction": {"names": ["contrastive", "word_level"], "late": True},
    "word_level, asked together": {"names": ["word_level"], "together": True},
    "sentence_features, asked together": {"names": ["sentence_features"], "together": True},
    "teachers of their own": {"names": ["listwise_kl", "listwise_kl_zero"], "own": ["listwise_kl_zero"]},
    "regularizer, no teacher": {"names": ["contrastive"], "penalty": True, "taught": False},
    "made passages, cached": {
        "names": ["contrastive", "listwise_kl", "passage_centric_released"],
        "gradient_cache": True,
        "dark": True,
    },
    "dynamic filter": {"names": ["contrastive"], "filtered_by": "teacher"},
    "dynamic filter by the student": {"names": ["contrastive", "passage_centric_joint"], "filtered_by": "student"},
    "dynamic filter, made passages": {"names": ["contrastive", "listwise_kl"], "filtered_by": "teacher", "dark": True},
}


class NoTrainer:
    """What a student asks a trainer."""

    progress = 0.5

    def log_dict(self, *_, **__):
        """Nothing."""


class Alone(NoTrainer, BiEncoder):
    """The dense student."""


class LateAlone(NoTrainer, LateInteraction):
    """The late-interaction student."""


def make_pacing():
    """Takes half of the queries."""
    share = {"start": 0.5, "end": 0.5, "until": 1.0}
    return SelfPaced("probability", "hard", share, 1.0, 64, 42)


def make_filter(by):
    """Follows the positives' scores, from the first batch on."""
    members = {"one": "similarity", "other": "similarity"}
    return Dynamic(members, by, None, "similarity", "ema_quantile", None, None, 0.5, 0.1, 0.95, None)


class MeanNorm(nn.Module):
    """A penalty on everything that was encoded."""

    def forward(self, queries, passages, progress, signals):
        return queries["vectors"].abs().mean() + passages["vectors"].abs().mean()


class Counting(SineTeacher):
    """How many pairs were asked about."""

    def __init__(self):
        self.asked = 0

    def attention(self, pairs, averaged):
        self.asked += len(pairs.queries)
        return super().attention(pairs, averaged)

    def features(self, pairs):
        self.asked += len(pairs.queries)
        return super().features(pairs)


def join(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )


def my_queries():
    return QUERIES[dist.get_rank() :: 2] if dist.is_initialized() else QUERIES


def late_student(checkpoint):
    student = make_late(checkpoint, markers={"query": "[Q] ", "passage": "[D] "}, add_markers=True)
    student.__class__ = LateAlone
    return student.eval()  # without dropout


def dense_student(checkpoint, shared):
    student = make_student(checkpoint, dropout=False, shared=shared)
    student.__class__ = Alone
    return student


def step(
    training_set,
    checkpoint,
    names,
    gradient_cache=False,
    shared=True,
    penalty=False,
    taught=True,
    late=False,
    paced=False,
    together=False,
    own=(),
    filtered_by=None,
):
    """Loss and gradients of one step, averaged over processes as DDP does, and the state that a filter is left in."""
    student = late_student(checkpoint) if late else dense_student(checkpoint, shared)
    parts = {"regularizer": MeanNorm()} if penalty else {}
    parts |= {"pacing": make_pacing()} if paced else {}
    parts |= {"filter": make_filter(filtered_by)} if filtered_by else {}
    # Not sharper: a temperature of .05 makes rounding twenty times as large.
    student.prepare(make_training(names, gradient_cache, temperature=1.0, **parts))
    counting, objective = Counting(), student.training_parts.objective
    if together:
        objective.terms[names[0]].teacher = lambda: SharedOut(counting)
    batch = make_batch(training_set, student, my_queries())
    if own:
        objective.own = tuple(own)
        others = batch.signals.scores.cos().unsqueeze(0).repeat(len(own), 1, 1)
        batch = replace(batch, signals=replace(batch.signals, own=others))
    if not taught:
        shape = batch.signals.role.shape
        untaught = replace(batch.signals, scores=torch.full(shape, float("nan")), members=torch.empty(0, *shape))
        batch = replace(batch, signals=untaught)
    loss = student.training_step(batch, 0)
    loss.backward()
    processes = dist.get_world_size() if dist.is_initialized() else 1
    gradients = {name: value.grad for name, value in student.named_parameters()}
    if together:  # what is summed over both is divided by two below: all pairs, each asked about by one of them
        gradients["asked"] = torch.tensor([float(counting.asked * processes)])
    if processes > 1:
        for value in gradients.values():
            dist.all_reduce(value)
            value /= processes
    return loss.item() / processes, gradients, filter_state(student) if filtered_by else None


def filter_state(student):
    """Thresholds behind their step, and the share that was dropped before it."""
    student.on_before_zero_grad(None)
    keep = student.training_parts.filter
    return torch.cat([keep.threshold, keep.figures["filter_share"][None]])


def pool(training_set, checkpoint):
    """Gathered representations, some as wide as the process's longest text, and signals with pairs."""
    student = make_student(checkpoint, dropout=False).eval()
    batch = make_batch(training_set, student, my_queries())
    pairs = torch.tensor([(row, *columns[:2]) for row, columns in enumerate(candidates(batch))])
    log_odds = torch.tensor([odds(batch.query_ids[row]) for row in pairs[:, 0]])
    batch = replace(batch, signals=replace(batch.signals, pairs=pairs, log_odds=log_odds))
    with torch.no_grad():
        queries, passages = student.encode(batch.queries, Side.QUERY), student.encode(batch.passages, Side.PASSAGE)
        longest = max(group.input_ids.shape[1] for group in batch.passages.groups) - dist_rank()
        passages["tokens"] = passages["vectors"].unsqueeze(1).repeat(1, longest, 1)
        passages["lengths"] = torch.tensor([len(passage_id) for passage_id in batch.passage_ids])
        return gather_pool(queries, passages, batch), batch


def candidates(batch):
    return [(row >= 0).nonzero().flatten().tolist() for row in batch.signals.role]


def odds(query_id):
    return float(query_id[1:]) + 0.5


def dist_rank():
    return dist.get_rank() if dist.is_initialized() else 0


def everything(folder, checkpoint):
    kinds = {"plain": {}, "paired": {"paired": True}, "dark": {"dark": True}}
    sets = {kind: make_training_set(folder / kind, **settings) for kind, settings in kinds.items()}
    steps = {}
    for name, settings in CASES.items():
        settings = dict(settings)
        kind = next((kind for kind in kinds if settings.pop(kind, False)), "plain")
        steps[name] = step(sets[kind], checkpoint, **settings)
    return steps, pool(sets["plain"], checkpoint)


def second(file, folder, checkpoint):
    """The whole life of the second process; its losses go into a file."""
    join(1, file)
    steps, _ = everything(folder, checkpoint)
    torch.save({name: (loss, state) for name, (loss, _, state) in steps.items()}, folder / "losses.pt")
    dist.destroy_process_group()
