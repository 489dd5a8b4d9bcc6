"""One verb per file; each runs inside the transaction that an edge opened."""
