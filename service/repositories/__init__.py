"""All SQL: rows in, values out."""
