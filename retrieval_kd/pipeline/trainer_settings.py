"""The config's trainer group as a type; checked while planning, so nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval_kd.contracts import UserError


@dataclass(frozen=True)
class TrainerSettings:
    """The config's trainer group."""

    accelerator: str
    devices: int
    strategy: str
    precision: str
    batch_size: int
    accumulate: int
    epochs: int
    max_steps: int | None
    warmup: float
    clip: float
    gradient_cache: bool
    validate_every: int | None
    validation_queries: int
    patience: int | None
    select: str
    checkpoint_every: int
    workers: int
    log_every: int
    diagnose: bool

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accumulate",
            "epochs",
            "max_steps",
            "validate_every",
            "validation_queries",
            "patience",
            "checkpoint_every",
            "log_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"trainer.{name}={value}: it must be at least 1")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"trainer.warmup={self.warmup}: it is a share of the steps, from 0 to 1")
        if self.select not in ("last", "best"):
            raise UserError(f"trainer.select={self.select}: it is last or best")
        if self.select == "best" and self.validate_every is None:
            raise UserError("trainer.select=best needs validations to choose from: give trainer.validate_every=STEPS")
