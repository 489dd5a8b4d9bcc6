"""The message path: outbox, relay, topology, consumers, dead letters."""
