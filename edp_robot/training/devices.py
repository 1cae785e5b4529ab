"""Where networks are trained: the CPU, or a CUDA GPU that torch sees."""

from __future__ import annotations

from typing import Any, Literal

import torch

Device = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")


def pick(name: str) -> torch.device:
    """Returns the device called `name`: cpu, cuda, or auto for cuda where there is one.

    Raises:
        ValueError: `name` is cuda and torch has none, or there is no such name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"no device {name!r}; there are: auto, cpu, cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        why = "finds no GPU" if torch.version.cuda else "was built without CUDA"
        raise ValueError(
            f"device 'cuda' asked for, but torch {torch.__version__} {why}; give --device cpu"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns torch's random state of the CPU, and of the GPU if that is the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(saved: dict[str, Any], device: torch.device) -> None:
    """Restores what `random_state` returned.

    Raises:
        ValueError: It was saved on another kind of device, which cannot draw the same numbers.
    """
    was = "cuda" if "cuda" in saved else "cpu"
    if was != device.type:
        raise ValueError(
            f"the run was trained on {was}, and this is {device.type}; "
            f"give --device {was} to resume it"
        )
    torch.set_rng_state(saved["cpu"].to(torch.uint8))
    if was == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].to(torch.uint8), device)
