import pytest
from support.tiny import tiny_pretrain

from edp_robot.training.pretrain import pretrain


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(tiny_pretrain(), str(out))
    return out
