"""Runs a policy's graph on an inference backend.

`base` has the Protocol `Backend`, the registry `BACKENDS` and `load_backend`. A folder or file
beside it is one backend; only `onnxruntime` ships.
"""
