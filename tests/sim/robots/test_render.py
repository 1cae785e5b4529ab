import io

import numpy as np
import pytest
from PIL import Image

from sim.robots import render
from sim.tasks import arm

ABOVE = [-0.524, -1.2, -1.55, 0.8, 0.0, 0.1, 0.0]


def poses(*qpos):
    """Observations (n, 22) of joint positions and the button's travel (7,) each."""
    obs = np.zeros((len(qpos), 22))
    obs[:, :6] = np.array(qpos)[:, :6]
    obs[:, 21] = np.array(qpos)[:, 6]
    return obs


POSES = poses([*arm.REST_POSE, 0.0], ABOVE, [-1.0, 0.5, -0.5, 0.5, 1.0, 1.0, 0.0])
needs_opengl = pytest.mark.skipif(render.available() is not None, reason=str(render.available()))


@pytest.fixture
def backend(monkeypatch):
    """Sets MUJOCO_GL for one test; what was found out about it is forgotten before and after."""
    render._backend.cache_clear()
    yield lambda name: monkeypatch.setenv("MUJOCO_GL", name)
    monkeypatch.undo()
    render._backend.cache_clear()


def red(picture):
    """Pixels of the button: much more red than anything else."""
    r = picture[..., 0].astype(int)
    g = picture[..., 1].astype(int)
    b = picture[..., 2].astype(int)
    return (r > 120) & (g < 60) & (b < 60)


@needs_opengl
def test_a_strip_has_its_poses_in_rows():
    strip = np.asarray(Image.open(io.BytesIO(render.film_strip("arm", POSES, columns=2))))
    assert strip.shape == (480, 640, 3)
    rest, above, left, empty = (strip[y : y + 240, x : x + 320] for y in (0, 240) for x in (0, 320))
    assert (empty == 255).all()
    assert (
        np.abs(rest.astype(int) - left).max() > 100 and np.abs(rest.astype(int) - above).max() > 100
    )
    assert red(rest).sum() > 100 and red(left).sum() > 100  # the button is in sight
    np.testing.assert_array_equal(render.draw("arm", POSES)[2], left)


@needs_opengl
def test_a_pressed_button_is_lower_in_the_picture():
    up, down = render.draw("arm", poses([*arm.REST_POSE, 0.0], [*arm.REST_POSE, 0.008]))
    assert np.argwhere(red(down))[:, 0].min() > np.argwhere(red(up))[:, 0].min()


@needs_opengl
def test_the_whole_workspace_is_in_the_picture():
    straight = [0.5, 0.0, -1.57, 0.0, 0.0, 0.0, 0.0]  # stretched upwards
    outwards = [[pan, 1.5, -1.6, 0.0, 0.0, 0.0, 0.0] for pan in (-1.9, -1.0, 0.0, 1.0, 1.9)]
    for picture in render.draw("arm", poses(straight, *outwards)):
        orange = (picture[..., 0] > 150) & (picture[..., 2] < 80)
        rows, columns = np.nonzero(orange)
        assert len(rows) > 200
        assert rows.min() > 0 and rows.max() < 239 and columns.min() > 0 and columns.max() < 319


@needs_opengl
def test_a_video_keeps_its_length_with_fewer_frames(tmp_path):
    obs = np.repeat(POSES[:1], 130, 0)
    obs[:, 0] = np.linspace(-1.5, 1.5, 130)
    path = render.video("arm", obs, tmp_path / "new" / "arm.gif", fps=50, size=(64, 48))
    with Image.open(path) as gif:
        assert gif.size == (64, 48) and gif.n_frames == 44  # every third of 130
        assert gif.info["duration"] == 60 and gif.info["loop"] == 0
        first = np.asarray(gif.convert("RGB")).astype(int)
        gif.seek(43)
        assert np.abs(np.asarray(gif.convert("RGB")) - first).max() > 60
    assert path.stat().st_size < 200_000


@needs_opengl
def test_the_button_is_red_in_a_video_too(tmp_path):
    with Image.open(render.video("arm", POSES, tmp_path / "arm.gif")) as gif:
        gif.seek(1)
        assert red(np.asarray(gif.convert("RGB"))).sum() > 100


def test_a_backend_that_does_not_work_is_a_reason_not_a_crash(backend):
    backend("nonsense")
    reason = render.available()
    assert "nonsense" in reason and "libosmesa6" in reason
    with pytest.raises(render.RenderError, match="nonsense"):
        render.film_strip("arm", POSES)


@pytest.mark.parametrize("shape", [(0, 22), (2, 7), (22,)])
def test_observations_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"finite \(n, 22\)"):
        render.film_strip("arm", np.zeros(shape))


def test_observations_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        render.film_strip("arm", np.full((1, 22), np.nan))


def test_a_task_without_a_mujoco_world_is_refused():
    with pytest.raises(ValueError, match="'modes' is no MuJoCo task"):
        render.draw("modes", np.zeros((1, 2)))


@pytest.mark.parametrize(("name", "fps"), [("a.mp4", 20), ("a.gif", 0), ("a.gif", 100)])
def test_other_videos_are_refused(tmp_path, name, fps):
    with pytest.raises(ValueError, match=r"\.gif and fps"):
        render.video("arm", POSES, tmp_path / name, fps=fps)
