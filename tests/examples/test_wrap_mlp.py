import importlib.util
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[2] / "examples" / "wrap_mlp.py"


def test_the_example_keeps_its_return(tmp_path):
    spec = importlib.util.spec_from_file_location("wrap_mlp", EXAMPLE)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.run(tmp_path, n_steps=150, episodes=10, seed=0)
    assert np.isclose(found["after"], found["before"], rtol=1e-3)
    assert found["before"] > 3 * found["random"]
