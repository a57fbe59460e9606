"""Execution of operations, sync and async."""
