"""Helpers for torch modules, shared by the torch engine and the exporter."""
