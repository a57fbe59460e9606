"""Previews before a run and predictions with its result, for a few samples; nothing is stored."""
