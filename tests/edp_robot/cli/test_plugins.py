from edp_robot import cli
from edp_robot.cli import plugins


def test_every_door_lists_its_parts_with_settings(capsys):
    assert cli.main(["plugins"]) == 0
    said = capsys.readouterr().out
    for words in (
        ("particle", "edp_robot.methods.explore.particle"),
        ("n_neighbours=3", "n_particles=1024"),
        ("edp-guidance", "edp_robot.methods.finetune.guidance"),
        ("arm-press", "sim.tasks.arm"),
        ("sim", "sim.robots.sim_robot"),
        ("onnxruntime", "policy_server.runtime.onnxruntime"),
    ):
        assert any(all(word in line for word in words) for line in said.splitlines()), words
    assert "model.n_blocks=3" in said  # settings of settings
    assert "delay_s=0.0" in said  # a robot's options are its parameters


def test_a_door_whose_package_is_missing_says_what_to_install(capsys, monkeypatch):
    """On a robot's computer there is no torch, and the other doors are listed all the same."""
    missing = plugins.Door("Rewards", "", "torch_is_not_here:REWARDS")
    monkeypatch.setattr(plugins, "DOORS", (missing, plugins.DOORS[-1]))
    assert plugins.plugins() == 0
    said = capsys.readouterr().out
    assert "No module named 'torch_is_not_here'" in said
    assert "onnxruntime" in said
