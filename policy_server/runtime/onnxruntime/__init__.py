"""Runs ONNX graphs with ONNX Runtime, which it imports when a graph is loaded.

`load_backend(bundle)` uses it for a bundle. `OnnxPolicy` runs a graph that is not in a bundle.
"""

from policy_server.runtime.onnxruntime.onnx_backend import load_onnx
from policy_server.runtime.onnxruntime.onnx_policy import OnnxPolicy

__all__ = ["OnnxPolicy", "load_onnx"]
