import pytest

from edp_robot.demo.beside import Beside


def test_commands_run_in_order(tmp_path):
    with Beside(tmp_path / "log") as beside:
        beside.add("tasks")
        beside.add("plugins")
        beside.wait()
    said = (tmp_path / "log").read_text()
    assert 0 < said.index("arm-reach-left") < said.index("resampling")


def test_a_command_that_fails_is_named_and_the_next_is_not_begun(tmp_path):
    with Beside(tmp_path / "log") as beside:
        beside.add("prtrain")
        beside.add("tasks")
        with pytest.raises(RuntimeError, match=r"`edp prtrain` failed; see .*log"):
            beside.wait()
    assert "arm-reach-left" not in (tmp_path / "log").read_text()
    assert "prtrain" in (tmp_path / "log").read_text()


def test_leaving_ends_the_command_at_hand(tmp_path):
    run = tmp_path / "run"
    with Beside(tmp_path / "log") as beside:
        long = ["--env-steps", "100000000", "--set", "loop.checkpoint_every_s=0.1"]
        beside.add(
            "pretrain", "--task", "maze-square-a", "--method", "random", *long, "--out", str(run)
        )
        beside.add("tasks")
        while not (run / "checkpoint.safetensors").exists():
            pass
    assert "interrupted" in (tmp_path / "log").read_text()
    assert "arm-reach-left" not in (tmp_path / "log").read_text()
