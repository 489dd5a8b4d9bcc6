"""Reading for an answer: no lock, and views instead of aggregates."""
