import csv

import numpy as np
import pytest

from edp_robot import cli
from edp_robot.config import presets
from edp_robot.config.settings import changed
from edp_robot.studies import ablation
from edp_robot.studies.ablation import VARIANTS, Options, gain, interval, study


class Over:
    def poll(self):
        return 0

    def send_signal(self, sig):
        pass

    def wait(self):
        return 0


def test_interval_by_hand():
    """Of .2, .4, .6: mean .4, s = .2, t(2) = 4.30: .2 / sqrt(3) x 4.30 = .4965."""
    assert interval(np.array([0.2, 0.4, 0.6])) == pytest.approx((0.4, 0.4965), abs=1e-3)


def test_welchs_interval_by_hand():
    """Variances .04 and .01 of 3 each: a = .01333, b = .00333; df = .01667^2 / ((a^2 + b^2) / 2) = 2.94 -> 2."""
    more, half = gain(np.array([0.4, 0.6, 0.8]), np.array([0.2, 0.3, 0.4]))
    assert more == pytest.approx(0.3) and half == pytest.approx(4.30 * np.sqrt(0.016667), abs=1e-3)
    assert gain(np.ones(3), np.ones(3)) == (0.0, 0.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_what_it_says(name):
    base = presets.pretrain("demo", "maze-square-large")
    assert (changed(base, VARIANTS[name][1]) == base) is (name == "default")


def test_the_table_grows_run_by_run_and_nothing_runs_twice(tmp_path, make_run):
    o = Options(("large",), ("width-32", "default"), runs=tmp_path / "runs", out=tmp_path / "out")
    coverage = {
        "default": [(0.1, 0.7), (0.1, 0.7), (0.1, 0.7)],
        "width-32": [(0.1, 0.5), (0.1, 0.5), (0.1, 0.5)],
    }
    started = []

    def start(job):
        started.append(job.args())
        make_run(job, coverage[job.variant])
        return Over()

    assert study(o, "here", start)() is True
    assert [a[a.index("--out") + 1].rsplit("/", 1)[1] for a in started] == ["default", "width-32"]
    assert (
        "--set" not in started[0] and started[1][started[1].index("--set") + 1] == "ddpg.width=32"
    )
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert (
        "| 0.500 [0.500, 0.500] | **-0.200 +- 0.000** |" in page
        and "| 0.700 [0.700, 0.700] |  |" in page
    )
    assert len(list(csv.DictReader((tmp_path / "out" / "ablation.csv").open()))) == 6
    assert study(o, "here", lambda job: pytest.fail("started again"))() is True


def test_unknown_variants_list_those_that_exist(tmp_path, capsys):
    assert cli.main(["study", "ablation", "--variants", "iidd", "--runs", str(tmp_path / "r")]) == 1
    assert "no variant 'iidd'; there are: default, shared" in capsys.readouterr().err
    assert cli.main(["study", "ablation", "--n-seeds", "11", "--runs", str(tmp_path / "r")]) == 1
    assert "n_seeds=11: give 2 to 10" in capsys.readouterr().err


def test_the_command_names_every_option(tmp_path, monkeypatch):
    asked, read = (
        Options(("tree",), ("default", "iid"), 5, 700, 3, tmp_path / "r", tmp_path / "o", 2),
        [],
    )
    monkeypatch.setattr(
        ablation, "study", lambda options, machine: read.append(options) or (lambda: True)
    )
    assert cli.main(asked.command().split()[1:]) == 0 and read == [asked]
