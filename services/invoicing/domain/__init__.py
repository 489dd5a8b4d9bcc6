"""The rules of invoices: plain Python, no database, no broker, no clock."""
