"""ONNX Runtime: providers, sessions, and what is stored for one machine."""
