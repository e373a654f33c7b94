"""From texts to padded rows, and from logits to predictions."""
