import numpy as np

from policy_server.control import samples
from policy_server.control.samples import Samples


def test_numbers_come_back_in_order_over_several_blocks(monkeypatch):
    monkeypatch.setattr(samples, "BLOCK", 4)
    kept = Samples()
    assert kept.array().tolist() == [] and kept.array().dtype == np.int64
    for value in range(10):
        kept.add(value)
    assert kept.array().tolist() == list(range(10))


def test_the_newest_blocks_are_kept(monkeypatch):
    monkeypatch.setattr(samples, "BLOCK", 4)
    monkeypatch.setattr(samples, "N_BLOCKS", 2)
    kept = Samples()
    for value in range(-17, 0):
        kept.add(value)
    assert kept.array().tolist() == [-5, -4, -3, -2, -1]
