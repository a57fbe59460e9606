"""The ledger: what has been acknowledged, in SQLite."""
