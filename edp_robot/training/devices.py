"""Where networks are trained: the CPU, or a CUDA GPU where torch sees one."""

from __future__ import annotations

from typing import Any, Literal

import torch

Device = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")


def pick(name: str) -> torch.device:
    """Returns the device called `name`: cpu, cuda, or auto for cuda where there is one.

    Raises:
        ValueError: cuda is asked for and torch has none, or there is no such name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"no device {name!r}; there are: auto, cpu, cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        why = "finds no GPU" if torch.version.cuda else "was built without CUDA"
        raise ValueError(
            f"device 'cuda' asked for, but torch {torch.__version__} {why}; give --device cpu"
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and there) else "cpu")


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns torch's random state, of the CPU and of the GPU where that is the device."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(saved: dict[str, Any], device: torch.device) -> None:
    """Goes back to what `random_state` returned.

    Raises:
        ValueError: it was saved on another kind of device, where the same numbers cannot be drawn again.
    """
    was = "cuda" if "cuda" in saved else "cpu"
    if was != device.type:
        raise ValueError(
            f"the run was trained on {was}, and this is {device.type}; give --device {was} to resume it"
        )
    torch.set_rng_state(saved["cpu"].to(torch.uint8))
    if was == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].to(torch.uint8), device)
