"""Who may come in, to which account, and as what. Plain Python: no database, no clock."""
