"""Inspection and modification of live models: adapters, compositions, fusions, heads and inputs."""
