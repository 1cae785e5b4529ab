import random

import numpy as np

from sim.core.evaluate import evaluate
from sim.core.seeds import globals_state, seed_globals, seeded_globals, set_globals_state


def drawn():
    shared = np.random.mtrand._rand  # what np.random.rand and the like draw from
    return [random.random(), random.gauss(0, 1), shared.rand(), shared.randn()]


def test_a_seed_repeats_both_and_a_state_goes_on():
    seed_globals(3)
    first = drawn()
    state = globals_state()
    second = drawn()
    seed_globals(3)
    assert drawn() == first
    assert drawn() == second != first
    set_globals_state(state)
    assert drawn() == second


def test_a_block_changes_nothing_outside():
    seed_globals(1)
    expected = drawn()
    seed_globals(1)
    with seeded_globals(2):
        inside = drawn()
    assert drawn() == expected
    with seeded_globals(2):
        assert drawn() == inside


def test_an_evaluation_is_seeded_and_leaves_the_stream_alone():
    def act(obs):
        return np.random.uniform(-1, 1, (len(obs), 3))  # noqa: NPY002

    seed_globals(1)
    expected = drawn()
    seed_globals(1)
    found = evaluate(act, "modes", 20, 5)
    assert drawn() == expected
    assert evaluate(act, "modes", 20, 5) == found
