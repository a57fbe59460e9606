"""The torch engine: exact recalibration of any module, without tracing it."""
