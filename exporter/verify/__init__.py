"""Comparisons of exported graphs with single-task eager PyTorch."""
