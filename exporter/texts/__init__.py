"""The user's own texts: calibration and evaluation files."""
