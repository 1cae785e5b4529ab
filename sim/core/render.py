"""Pictures of the desk arm: a film strip (PNG) and an animation (GIF).

MuJoCo chooses its OpenGL backend when it is imported, and a missing or broken one can take the process with it. So
the drawing happens in a process of its own, `python -m sim.core.render FRAMES.npz PIXELS.npy`, started with the backend in
its environment. Without a screen this wants EGL (a GPU's driver) or OSMesa (Debian: libosmesa6).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

CAMERA = "front"
FRAME_SIZE = (320, 240)  # width, height [pixel]
MAX_FRAMES = 60
TIMEOUT_S = 120.0
N_COLOURS = (
    128  # of a video; chosen to cover what is rare (the red button) as well as what is common
)


class RenderError(RuntimeError):
    """Nothing can be drawn on this machine; the message says why and what would help."""


def qpos_from_obs(obs: np.ndarray) -> np.ndarray:
    """Returns joint positions (n, 7), the button's travel last, from the arm's observations (n, 22)."""
    return np.concatenate([obs[:, :6], obs[:, 21:22]], 1).astype(np.float64)


def available() -> str | None:
    """Returns None where drawing works, else the reason why not, for people."""
    return _backend()[1]


def film_strip(qpos: np.ndarray, columns: int = 6, size: tuple[int, int] = FRAME_SIZE) -> bytes:
    """Returns one PNG with the poses `qpos` (n, 7) [rad], left to right and then down, `columns` in a row.

    Raises:
        ValueError: `qpos` has another shape or is not finite, or `columns` is less than 1.
        RenderError: drawing does not work here.
    """
    if columns < 1:
        raise ValueError(f"columns {columns}: expected 1 or more")
    frames = draw(qpos, size)
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
    qpos: np.ndarray, path: str | Path, fps: float = 20.0, size: tuple[int, int] = FRAME_SIZE
) -> Path:
    """Returns `path`, an animated GIF of the poses `qpos` (n, 7) [rad] at `fps` frames a second, without end.

    Of more than MAX_FRAMES poses every second, third ... is drawn, and shown so much longer.

    Raises:
        ValueError: as `film_strip`; `path` does not end in .gif; `fps` is not in (0, 50].
        RenderError: drawing does not work here.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif" or not 0 < fps <= 50:
        raise ValueError(
            f"got {path} at {fps} frames a second: expected a name ending in .gif and fps in (0, 50]"
        )
    stride = -(-len(qpos) // MAX_FRAMES)
    frames = draw(np.asarray(qpos)[::stride], size)
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    some = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 4)]))
    palette = some.quantize(
        N_COLOURS, Image.Quantize.MAXCOVERAGE
    )  # one for all frames, or the desk would flicker
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


def draw(qpos: np.ndarray, size: tuple[int, int] = FRAME_SIZE) -> np.ndarray:
    """Returns pictures (n, height, width, 3) uint8 of the poses `qpos` (n, 7) [rad].

    Raises:
        ValueError: `qpos` has another shape or is not finite.
        RenderError: drawing does not work here.
    """
    qpos = np.asarray(qpos, np.float64)
    if qpos.ndim != 2 or qpos.shape[1] != 7 or not len(qpos) or not np.isfinite(qpos).all():
        raise ValueError(
            f"qpos of shape {qpos.shape}: expected finite (n, 7) [rad], n above 0; see qpos_from_obs"
        )
    backend, reason = _backend()
    if reason is not None:
        raise RenderError(reason)
    frames, reason = _draw_with(backend, qpos, size)
    if frames is None:
        raise RenderError(f"drawing {len(qpos)} pictures failed: {reason}")
    return frames


@cache
def _backend() -> tuple[str | None, str | None]:
    """Returns the first value of MUJOCO_GL that draws here (None: MuJoCo's default), and why there is none."""
    wanted = os.environ.get("MUJOCO_GL")
    on_linux = ("egl", "osmesa") if sys.platform.startswith("linux") else (None,)
    reasons = []
    for backend in (wanted,) if wanted else on_linux:
        frames, reason = _draw_with(backend, np.zeros((1, 7)), (64, 48))
        if frames is not None and frames.std() > 0:
            return backend, None
        reasons.append(f"{backend or 'default'}: {reason or 'the picture is empty'}")
    hint = "install libosmesa6 (Debian, Ubuntu) or a GPU driver with EGL, or set MUJOCO_GL"
    return None, f"MuJoCo cannot draw here ({'; '.join(reasons)}); {hint}"


def _draw_with(
    backend: str | None, qpos: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, None] | tuple[None, str]:
    """Returns pictures drawn in a new process with MUJOCO_GL=`backend`, or None and the reason."""
    env = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    env |= {"MUJOCO_GL": backend} if backend else {}
    with tempfile.TemporaryDirectory(prefix="sim_render_") as folder:
        given, made = Path(folder, "frames.npz"), Path(folder, "pixels.npy")
        np.savez(given, qpos=qpos, size=size)
        command = [sys.executable, "-m", "sim.core.render", str(given), str(made)]
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
    """Draws the poses `qpos` of the file `given` in `size` and saves the pictures to `made`."""
    import mujoco

    from sim.tasks import arm

    with np.load(given, allow_pickle=False) as frames:
        qpos, (width, height) = frames["qpos"], frames["size"].tolist()
    model = arm.load_model()
    data, pixels = mujoco.MjData(model), np.empty((len(qpos), height, width, 3), np.uint8)
    with mujoco.Renderer(model, height, width) as renderer:
        for row, out in zip(qpos, pixels, strict=True):
            data.qpos[:] = row
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, CAMERA)
            renderer.render(out=out)
    np.save(made, pixels)


if __name__ == "__main__":
    main(*sys.argv[1:])
