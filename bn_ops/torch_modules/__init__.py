"""Torch module helpers that the torch engine and the exporter share."""
