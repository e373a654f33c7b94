"""ONNX Runtime: providers, sessions, graph checks and machine-specific caches."""
