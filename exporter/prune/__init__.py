"""Pruned copies of the model, one per task structure, and the pruning of fusion members."""
