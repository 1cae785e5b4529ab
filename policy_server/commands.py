"""What `edp serve` does; returns an exit code. `edp bench` is in `policy_server.bench_commands`."""

from policy_server.backends import Provider
from policy_server.bench_commands import bench_compare, bench_latency, bench_load
from policy_server.bundle import Precision
from policy_server.guard import guarded as _guarded

__all__ = ["bench_compare", "bench_latency", "bench_load", "serve"]


def serve(
    bundle: str,
    bind: str = "tcp://127.0.0.1:5599",
    provider: Provider = "auto",
    seed: int = 0,
    precision: Precision = "fp32",
) -> int:
    """Serve a policy to robots until Ctrl-C.

    Example: edp serve runs/demo/bundle --bind tcp://127.0.0.1:5599

    Args:
        bundle: Folder of the policy bundle.
        bind: Where to listen: tcp://127.0.0.1:PORT (* for a free port) or ipc://PATH; loopback only.
        provider: What computes; auto takes the faster of CPU and CUDA. One that is named is used or refused.
        seed: Seed of the noise that the policy samples with.
        precision: fp32, or what `edp calibrate quant` has put into the bundle.
    """

    def work() -> None:
        from policy_server.server import PolicyServer

        PolicyServer(bundle, bind, provider, seed, precision).run()

    return _guarded("serve", work)
