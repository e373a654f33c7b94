"""Tasks that are added to a running predictor: their files, the slots that hold their weights, and the calls that use them."""
