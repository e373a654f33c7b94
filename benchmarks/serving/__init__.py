"""Load test: requests of single texts for different tasks, behind one batcher, at rising load."""
