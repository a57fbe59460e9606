"""Data files, images and labels read by the command."""
