"""Splits a graph where the trunk ends: trunk.onnx computes the trunk's states, branches.onnx the tasks from the states."""

from exporter.split.split_variants import split_variants

__all__ = ["split_variants"]
