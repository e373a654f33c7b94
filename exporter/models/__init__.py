"""What the exporter reads from a live model, one file per adapter library and per subject."""
