"""The rules of payments. Plain Python: no database, no broker, no provider, no clock."""
