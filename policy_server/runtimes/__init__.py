"""Running ONNX graphs: the only rooms that know ONNX Runtime, and import it when it is first needed."""
