"""Publishing of bundles on the Hugging Face hub, with a model card."""
