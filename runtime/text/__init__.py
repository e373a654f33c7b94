"""Text processing: from texts to padded batches, and from logits to predictions."""
