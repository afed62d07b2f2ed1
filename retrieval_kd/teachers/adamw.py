"""AdamW with linear warm-up and linear decay to zero, as cross-encoders are usually trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class LinearAdamW:
    """Optimizer settings; ``warmup`` is a share of all steps."""

    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.1

    def build(self, module: nn.Module, steps: int) -> tuple[AdamW, LambdaLR]:
        """Optimizer and per-step schedule; biases and norms (fewer than two dimensions) are not decayed."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = AdamW(groups, lr=self.learning_rate)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at ``step``; the first step is not wasted at zero."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return max(0.0, (steps - step) / max(1, steps - warm))
