"""Where networks are trained: the CPU, or a CUDA GPU that torch sees."""

from __future__ import annotations

from typing import Any, Literal

import torch

from sim.core.seeds import globals_state, seed_globals, set_globals_state

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


def seed_all(seed: int) -> None:
    """Seeds torch, `random` and `numpy.random`."""
    torch.manual_seed(seed)
    seed_globals(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of the CPU's generators, and of torch's on the GPU if that is the device.

    They are torch's, `random` and `numpy.random`, which foreign environments and rewards use.
    """
    state: dict[str, Any] = {"cpu": torch.get_rng_state(), "globals": globals_state()}
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
    if "globals" in saved:  # an older version saved torch's alone
        set_globals_state(saved["globals"])
    if was == "cuda":
        torch.cuda.set_rng_state(saved["cuda"].to(torch.uint8), device)
