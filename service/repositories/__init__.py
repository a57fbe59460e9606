"""Repositories: all SQL, and the records that its rows become.

Functions take a transaction and return records. The SQL text uses named parameters and only what
SQLite and PostgreSQL share: no boolean arithmetic, an alias for each subquery in FROM, a cast where
a parameter is compared with NULL.
"""
