"""Shared parts of the passes: the builder of nodes, matchers, and the operator table."""
