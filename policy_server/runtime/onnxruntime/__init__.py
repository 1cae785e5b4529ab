"""Runs ONNX graphs with ONNX Runtime, which it imports when it is first needed."""
