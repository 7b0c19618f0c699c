"""The word `--device` of the commands."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU. Raises `ValueError` for an absent one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch {torch.__version__} sees no CUDA device here")
    return device
