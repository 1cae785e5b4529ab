import csv

import numpy as np
import pytest

from edp_robot import cli
from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.studies.ablation import VARIANTS, Options, gain, interval
from edp_robot.studies.study import Study


def test_interval_by_hand():
    """Mean of .2, .4, .6 is .4, s = .2, t(2) = 4.303, so half is .2 / sqrt(3) x 4.303 = .4968."""
    assert interval(np.array([0.2, 0.4, 0.6])) == pytest.approx((0.4, 0.4968), abs=1e-4)


def test_welchs_interval_by_hand():
    """Variances .04 and .01 of 3 values each.

    a = .04 / 3, b = .01 / 3, df = (a + b)^2 / ((a^2 + b^2) / 2) = 2.94, t = 3.219,
    half = t sqrt(a + b) = .4155.
    """
    more, half = gain(np.array([0.4, 0.6, 0.8]), np.array([0.2, 0.3, 0.4]))
    assert more == pytest.approx(0.3)
    assert half == pytest.approx(0.4155, abs=1e-4)


def test_values_without_spread_have_an_interval_of_zero():
    assert gain(np.full(3, 0.5), np.full(3, 0.7)) == pytest.approx((-0.2, 0.0))
    assert interval(np.full(3, 0.5)) == (0.5, 0.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_what_it_says(name):
    base = presets.pretrain("demo", "maze-square-large")
    assert (changed(base, VARIANTS[name][1]) == base) is (name == "default")


def test_the_table_grows_run_by_run_and_nothing_runs_twice(tmp_path, make_run, ended):
    o = Options(("large",), ("width-32", "default"), runs=tmp_path / "runs", out=tmp_path / "out")
    coverage = {"default": [(0.1, 0.7)] * 3, "width-32": [(0.1, 0.5)] * 3}
    started = []

    def start(job):
        started.append(job)
        make_run(job, coverage[job.variant])
        return ended()

    assert Study(o, "here", start)() is True
    assert [job.folder.name for job in started] == ["default", "width-32"]
    base, changed_run = (job.args() for job in started)
    assert "--set" not in base
    assert changed_run[changed_run.index("--set") + 1] == "ddpg.width=32"
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert "| 0.500 [0.500, 0.500] | **-0.200 +- 0.000** |" in page
    assert "| 0.700 [0.700, 0.700] |  |" in page
    assert len(list(csv.DictReader((tmp_path / "out" / "ablation.csv").open()))) == 6
    assert Study(o, "here", lambda job: pytest.fail("started again"))() is True


def test_unknown_variants_list_those_that_exist(tmp_path, capsys):
    runs = ["--runs", str(tmp_path / "r")]
    assert cli.main(["study", "ablation", "--variants", "iidd", *runs]) == 1
    assert "no variant 'iidd'; there are: default, shared" in capsys.readouterr().err
    assert cli.main(["study", "ablation", "--n-seeds", "1", *runs]) == 1
    assert "n_seeds=1: give 2 or more" in capsys.readouterr().err
