"""A story that bills one customer through the gateway, as any HTTP client could."""
