"""Verification and evaluation of exported graphs against single-task eager PyTorch."""
