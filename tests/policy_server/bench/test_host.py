import json

from policy_server.bench.host import host, n_cores


def test_the_host_says_what_a_latency_depends_on():
    here = host()
    names = {"cpu", "n_cores", "governor", "virtual_machine", "kernel", "load_average"}
    assert names | {"commit", "python", "numpy"} <= here.keys()
    assert json.dumps(here, allow_nan=False)
    assert here["n_cores"] == n_cores() >= 1
