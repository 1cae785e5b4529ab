"""The backend "onnxruntime": a bundle's graph on the CPU, CUDA or TensorRT."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from policy_server.contract.bundle import Bundle, graph_name
from policy_server.contract.errors import BackendError
from policy_server.contract.manifest import Manifest
from policy_server.runtime.base import BACKENDS, BackendOptions
from policy_server.runtime.onnxruntime import gpu
from policy_server.runtime.onnxruntime.onnx_policy import OnnxPolicy

N_TIMED = 30  # queries that decide between CPU and CUDA
N_WARMUP = 10  # of these, the first that do not count


@BACKENDS.register("onnxruntime")
def load_onnx(bundle: Bundle, options: BackendOptions) -> OnnxPolicy:
    """Returns the bundle's graph on the provider that `options` asks for.

    auto: CUDA, if it loads and answers one obs faster than the CPU; otherwise the CPU.

    Raises:
        BackendError: Runtime or provider are missing, or the graph contradicts the manifest.
    """
    graph = bundle.read(graph_name(options.precision))

    def policy_on(provider: str) -> OnnxPolicy:
        return OnnxPolicy(
            graph,
            provider,
            n_threads=options.n_threads,
            batch_sizes=options.batch_sizes,
            precision=options.precision,
        )

    policy = policy_on("cpu" if options.provider == "auto" else options.provider)
    check_graph(policy.shapes, bundle.manifest)
    if options.provider != "auto" or not gpu.present():
        return policy
    golden = bundle.golden()
    try:
        return min((policy, policy_on("cuda")), key=lambda made: _median_s(made, golden))
    except BackendError:
        return policy


def check_graph(shapes: dict[str, list[Any]], manifest: Manifest) -> None:
    """Raises BackendError if the graph's shapes contradict the manifest. An open one fits all.

    Args:
        shapes: Shape of each input and output, batch first; an open dimension is a name or None.
        manifest: The manifest of the graph's bundle.
    """
    expected = {"obs": (manifest.obs_dim,), "action": (manifest.horizon, manifest.act_dim)}
    if manifest.latent_dim:
        expected["noise"] = (manifest.latent_dim,)
    if manifest.state_dim:
        expected |= dict.fromkeys(("state", "next_state"), (manifest.state_dim,))
    if set(expected) != set(shapes):
        raise BackendError(
            f"graph has {sorted(shapes)}, "
            f"manifest (latent_dim {manifest.latent_dim}, state_dim {manifest.state_dim}) "
            f"needs {sorted(expected)}"
        )
    for name, row in expected.items():
        wanted = (1, *row)
        found = shapes[name] or [None]
        fits = len(found) == len(wanted) and all(
            not isinstance(dim, int) or dim == want for dim, want in zip(found, wanted, strict=True)
        )
        if not fits:
            raise BackendError(
                f"graph's {name} is {shapes[name]}, "
                f"manifest says {['batch', *row]} (batch free or 1)"
            )


def _median_s(policy: OnnxPolicy, golden: dict[str, np.ndarray]) -> float:
    """Returns the median time of one golden obs [s]."""
    obs = golden["obs"][:1]
    noise = golden["noise"][:1]
    state = golden["state"][:1] if "state" in golden else np.zeros((1, 0), np.float32)
    times = []
    for _ in range(N_TIMED):
        start = time.perf_counter()
        policy.step(obs, noise, state)
        times.append(time.perf_counter() - start)
    return float(np.median(times[N_WARMUP:]))
