"""The report: its values, how they are measured, and its HTML page."""
