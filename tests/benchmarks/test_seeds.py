import coverage_per_second
import seeds


def made(finetuned, edp, ddpg, long):
    return {
        "pretrain": {"coverage": 0.9, "n_success_episodes": 12.0},
        "finetuned": {"success": finetuned},
        "scratch-edp": {"success": edp},
        "scratch-ddpg": {"success": ddpg},
        "scratch-ddpg-long": {"success": long},
    }


def test_the_gap_is_to_the_best_from_scratch_with_as_many_env_steps():
    one = made(0.98, 0.2, 0.5, 1.0)
    assert seeds.best_scratch(one) == 0.5
    assert seeds.row(3, one) == "| 3 | 0.900 | 12 | 0.980 | 0.200 | 0.500 | 1.000 | +0.480 |"
    said = seeds.table({3: one, 4: made(0.96, 0.0, 0.0, 0.0)}).splitlines()[-1]
    assert said.startswith("Least success 0.960")
    assert "median +0.720, least +0.480, of 2 seeds" in said


def test_coverage_is_that_of_the_last_row_before_the_second(tmp_path):
    rows = ["env_step,name,value"]
    for env_step, cpu_s, coverage in ((10, 30, 0.1), (20, 59, 0.2), (30, 61, 0.3), (40, 130, 0.4)):
        rows += [f"{env_step},cpu_s,{cpu_s}", f"{env_step},coverage,{coverage}"]
        rows += [f"{env_step},n_success_episodes,{env_step // 10}"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert coverage_per_second.used_s(tmp_path) == 130
    assert coverage_per_second.at(tmp_path, "coverage", 60) == 0.2
    row = coverage_per_second.measured([tmp_path], [60, 120])
    assert row == {"coverage": [0.2, 0.3], "n_success_episodes": [2, 3], "env_steps": [30.0]}
