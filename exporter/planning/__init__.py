"""Validation of export requests and their conversion to plans."""
