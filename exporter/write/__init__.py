"""Writes the bundle: graphs, weights and manifest, as a whole or not at all."""
