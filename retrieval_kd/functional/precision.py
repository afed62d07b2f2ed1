"""Which precision this machine is fast in: bfloat16 where the hardware computes in it, float32 elsewhere."""

from __future__ import annotations

import torch

from retrieval_kd.contracts import UserError


def computes_in_bf16(device: str) -> bool:
    """Whether bfloat16 is native; emulated, it is several times slower than float32."""
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def computed_in(precision: str, device: str) -> str:
    """What an encoder really computes in: the name that vectors and scores are stored under."""
    return "bf16" if autocasts(precision, device) else "fp32"


def autocasts(precision: str, device: str) -> bool:
    """Whether an encoder runs under bfloat16 autocast: ``precision`` is bf16, fp32, or auto for what is fast."""
    if precision not in ("auto", "bf16", "fp32"):
        raise UserError(f"precision={precision}: it is auto, bf16 or fp32")
    return precision == "bf16" or (precision == "auto" and computes_in_bf16(device))
