"""Checks of the caller's arguments before inference: feeds, tasks, texts and drops."""
