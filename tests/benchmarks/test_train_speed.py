import json

import pytest
import torch
import train_speed
from train_speeding.products import Products
from train_speeding.trainings import TRAININGS, Training

from edp_robot.engine import Adam, Recorded
from edp_robot.methods.models import SMALL, noise_model


def learner(n=2):
    """Returns a function that takes `n` recorded grad_steps of x W W'."""
    weight = torch.randn(4, 5, requires_grad=True)
    optimizer = Adam([weight], 1e-3)

    def descend(x):
        loss = (x @ weight @ weight.T).square().mean()
        optimizer.descend(loss)
        return {"loss": loss.detach()}

    grad_step = Recorded(descend)
    return lambda: [grad_step(torch.randn(3, 4)) for _ in range(n)]


def test_every_product_counts_those_of_the_backward_pass_too():
    """Of x W W', forward and backward."""
    products = Products(learner(n=1))
    assert len(products) == 5
    assert products.kinds == {
        "mm [3, 4] [4, 5]": 2,  # x W, and backward to x W
        "mm [3, 5] [5, 4]": 1,  # (x W) W'
        "mm [4, 3] [3, 5]": 2,  # backward to W and to W'
    }
    products()


def test_products_of_stacks_and_of_transposed_operands():
    x = torch.randn(2, 3, 4)
    bias = torch.randn(2, 1, 3)
    products = Products(lambda: torch.baddbmm(bias, x, x.transpose(1, 2)))
    assert products.kinds == {"baddbmm [2, 1, 3] [2, 3, 4] [2, 4, 3]": 1}
    products()


def test_a_stacked_network_is_counted_whole():
    model = noise_model(2, 3, SMALL, (4,))
    x = torch.randn(4, 6, 2)
    products = Products(lambda: model(x, torch.rand(6), torch.randn(4, 6, 3)))
    assert len(products) == 2 + 1 + 2 * SMALL.n_blocks + 1  # time, stem, blocks, head


def test_plain_and_engine_are_what_they_say():
    calls = []
    step = Recorded(lambda x: calls.append(1) or {"y": x + 1})
    with train_speed.plainly():
        for _ in range(3):
            step(torch.ones(1))
    assert len(calls) == 3
    for _ in range(3):
        step(torch.ones(1))
    assert len(calls) == 5  # the first runs, the second records, the third is a replay


def test_a_run_writes_json_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TRAININGS, "arm", Training(learner, 2))
    path = tmp_path / "speed.json"
    train_speed.main(["--only", "arm", "--rounds", "3", "--json", str(path)])
    result = json.loads(path.read_text())
    found = result["grad_step_ms"]["arm"]
    assert found["products"] == 5
    for part in ("floor", "plain", "engine"):
        assert 0 < found[part]["p10"] <= found[part]["p50"] <= found[part]["p90"]
    assert result["host"]["n_cores"]
    table = path.with_suffix(".md").read_text()
    assert table == f"{train_speed.TITLE}\n{capsys.readouterr().out}"
    assert table.splitlines()[-1].startswith("| arm | ")


@pytest.mark.parametrize("name", ["maze", "fine-tuning's psi", "paired distillation"])
def test_a_training_takes_its_grad_steps(name):
    step = TRAININGS[name].make()
    with train_speed.plainly():
        assert len(Products(step)) >= 5 * TRAININGS[name].n
