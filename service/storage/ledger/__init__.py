"""The ledger: a database with everything that was acknowledged."""
