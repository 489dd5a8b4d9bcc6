"""How money moves: methods, payments, dunning, providers and the ledger."""
