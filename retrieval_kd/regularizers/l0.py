"""FLOPS of long passages only (https://arxiv.org/abs/2504.14839)."""

from __future__ import annotations

from torch import Tensor

from retrieval_kd.functional.sparsity import longer_than
from retrieval_kd.regularizers.penalty import Penalty


class L0(Penalty):
    """FLOPS with a mask: a passage of at most ``threshold`` active terms is sparse enough and is not pushed.

    Means are still over all passages, the masked ones as zeros; queries have no mask.
    """

    def __init__(
        self, passage_weight: float, query_weight: float, ramp: float, reduction: str, threshold: float
    ) -> None:
        super().__init__(passage_weight, query_weight, ramp, reduction)
        if threshold < 0:
            raise ValueError(f"regularizer.threshold is a number of terms, got {threshold}")
        self.threshold = threshold

    @property
    def advice(self) -> str:
        """As any penalty's, or a higher threshold."""
        return f"{super().advice}, or raise regularizer.threshold ({self.threshold:g} now)"

    def of_passages(self, activations: Tensor) -> Tensor:
        """Rows of the long ones, others zero."""
        return longer_than(activations, self.threshold)
