"""Pictures of a MuJoCo task: a film strip (PNG) and an animation (GIF).

MuJoCo chooses its OpenGL backend when it is imported, and a missing or broken one can end the
process. So the drawing happens in a process of its own, `python -m sim.robots.render FRAMES.npz
PIXELS.npy`, started with the backend in its environment. Without a screen it needs EGL (a GPU's
driver) or OSMesa (Debian: libosmesa6).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.robots.child import child_environment

if TYPE_CHECKING:
    from sim.tasks.mujoco_task import MujocoTask

PROBE_TASK = "arm"  # drawn once, to see whether drawing works
FRAME_SIZE = (320, 240)  # width, height [pixel]
MAX_FRAMES = 60
TIMEOUT_S = 120.0
# Colours of a video, chosen to cover what is rare (the red button) as well as what is common.
N_COLOURS = 128


class RenderError(RuntimeError):
    """Nothing can be drawn on this machine. The message says why and what helps."""


def available() -> str | None:
    """Returns None where drawing works, else the reason why it does not."""
    return _backend()[1]


def film_strip(
    task: str, obs: np.ndarray, columns: int = 6, size: tuple[int, int] = FRAME_SIZE
) -> bytes:
    """Returns one PNG with the poses of obs (n, obs_dim), from left to right and then down.

    Args:
        task: Name of a MuJoCo task.
        obs: (n, obs_dim).
        columns: Pictures in a row.
        size: Width and height of a picture [pixel].

    Raises:
        ValueError: The obs has another shape or is not finite, or `columns` is less than 1.
        RenderError: Drawing does not work here.
    """
    if columns < 1:
        raise ValueError(f"columns {columns}: expected 1 or more")
    frames = draw(task, obs, size)
    n, height, width, _ = frames.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, np.uint8)
    sheet[:n] = frames
    grid = (
        sheet.reshape(rows, columns, height, width, 3)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, 3)
    )
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(grid).save(png, "PNG", optimize=True)
    return png.getvalue()


def video(
    task: str,
    obs: np.ndarray,
    path: str | Path,
    fps: float = 20.0,
    size: tuple[int, int] = FRAME_SIZE,
) -> Path:
    """Returns `path`, an endless animated GIF of the poses of obs (n, obs_dim).

    Of more than MAX_FRAMES poses every second, third ... is drawn, and shown so much longer.

    Args:
        task: Name of a MuJoCo task.
        obs: (n, obs_dim).
        path: File to write, with a name that ends in .gif.
        fps: Poses in one second.
        size: Width and height of a picture [pixel].

    Raises:
        ValueError: As for `film_strip`; or `path` does not end in .gif, or `fps` is not in (0, 50].
        RenderError: Drawing does not work here.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif" or not 0 < fps <= 50:
        raise ValueError(
            f"got {path} at {fps} frames a second: expected a name with .gif and fps in (0, 50]"
        )
    stride = -(-len(obs) // MAX_FRAMES)
    frames = draw(task, np.asarray(obs)[::stride], size)
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    some = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 4)]))
    # One palette for all frames, or the desk would flicker.
    palette = some.quantize(N_COLOURS, Image.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    duration_ms = round(1000 * stride / fps)
    images[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=duration_ms,
        loop=0,
        optimize=True,
    )
    return path


def draw(task: str, obs: np.ndarray, size: tuple[int, int] = FRAME_SIZE) -> np.ndarray:
    """Returns pictures (n, height, width, 3) uint8.

    Args:
        task: Name of a MuJoCo task.
        obs: (n, obs_dim), n above 0.
        size: Width and height of a picture [pixel].

    Raises:
        ValueError: The task is no MuJoCo task, or the obs has another shape or is not finite.
        RenderError: Drawing does not work here.
    """
    obs_dim = mujoco_task(task).spec.obs_dim
    obs = np.asarray(obs, np.float64)
    if obs.ndim != 2 or obs.shape[1] != obs_dim or not len(obs) or not np.isfinite(obs).all():
        raise ValueError(f"obs of shape {obs.shape}: expected finite (n, {obs_dim}), n above 0")
    backend, reason = _backend()
    if reason is not None:
        raise RenderError(reason)
    frames, reason = _draw_with(backend, task, obs, size)
    if frames is None:
        raise RenderError(f"drawing {len(obs)} pictures failed: {reason}")
    return frames


def mujoco_task(name: str) -> MujocoTask:
    """Returns the MuJoCo task `name`. Raises ValueError where it is another kind of task."""
    from sim.core.registry import make_task
    from sim.tasks.mujoco_task import MujocoTask

    task = make_task(name)
    if not isinstance(task, MujocoTask):
        raise ValueError(f"task {name!r} is no MuJoCo task: there is nothing to draw")
    return task


@cache
def _backend() -> tuple[str | None, str | None]:
    """Returns the first value of MUJOCO_GL that draws here, and why there is none.

    The value None stands for MuJoCo's default.
    """
    wanted = os.environ.get("MUJOCO_GL")
    on_linux = ("egl", "osmesa") if sys.platform.startswith("linux") else (None,)
    reasons = []
    for backend in (wanted,) if wanted else on_linux:
        frames, reason = _draw_with(backend, PROBE_TASK, np.zeros((0, 0)), (64, 48))
        if frames is not None and frames.std() > 0:
            return backend, None
        reasons.append(f"{backend or 'default'}: {reason or 'the picture is empty'}")
    hint = "install libosmesa6 (Debian, Ubuntu) or a GPU driver with EGL, or set MUJOCO_GL"
    return None, f"MuJoCo cannot draw here ({'; '.join(reasons)}); {hint}"


def _draw_with(
    backend: str | None, task: str, obs: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, None] | tuple[None, str]:
    """Returns pictures drawn in a new process with MUJOCO_GL=`backend`, or None and the reason.

    Without any obs it draws the world as its MJCF has it. The calling process does not import
    mujoco.
    """
    inherited = child_environment().items()
    env = {k: v for k, v in inherited if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    env |= {"MUJOCO_GL": backend} if backend else {}
    with tempfile.TemporaryDirectory(prefix="sim_render_") as folder:
        given = Path(folder, "frames.npz")
        made = Path(folder, "pixels.npy")
        np.savez(given, task=task, obs=obs, size=size)
        command = [sys.executable, "-m", "sim.robots.render", str(given), str(made)]
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            return None, f"no picture within {TIMEOUT_S:g} s"
        if done.returncode == 0 and made.exists():
            return np.load(made, allow_pickle=False), None
    last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return None, f"{last_line} (exit status {done.returncode})"


def main(given: str, made: str) -> None:
    """Draws the poses of the file `given`, and saves the pictures to the file `made`."""
    import mujoco

    with np.load(given, allow_pickle=False) as frames:
        world = mujoco_task(str(frames["task"]))
        obs = frames["obs"]
        qpos = world.qpos(obs) if len(obs) else world.model.qpos0[None]
        width, height = frames["size"].tolist()
    data = mujoco.MjData(world.model)
    pixels = np.empty((len(qpos), height, width, 3), np.uint8)
    with mujoco.Renderer(world.model, height, width) as renderer:
        for row, out in zip(qpos, pixels, strict=True):
            data.qpos[:] = row
            mujoco.mj_forward(world.model, data)
            renderer.update_scene(data, -1 if world.camera is None else world.camera)
            renderer.render(out=out)
    np.save(made, pixels)


if __name__ == "__main__":
    main(*sys.argv[1:])
