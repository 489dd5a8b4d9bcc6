"""Who may come in: users, accounts, sessions and the keys that sign them."""
