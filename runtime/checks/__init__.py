"""Checks of feeds and requests before ONNX Runtime runs."""
