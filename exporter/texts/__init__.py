"""Calibration and evaluation texts, and the comparison of predictions on them."""
