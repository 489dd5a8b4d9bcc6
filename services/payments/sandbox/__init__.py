"""A payment provider for development: a server of its own that keeps its own books."""
