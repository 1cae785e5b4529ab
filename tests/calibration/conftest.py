import pytest
from support import graphs


@pytest.fixture
def modes_bundle(tmp_path):
    """Saves a bundle of task `modes` (or another name) around a graph; returns its folder."""
    return lambda graph, task="modes": graphs.modes_bundle(tmp_path / "bundle", graph, task)
