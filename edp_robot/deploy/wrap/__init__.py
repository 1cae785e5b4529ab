"""Wraps any feed-forward ONNX policy into a bundle."""
