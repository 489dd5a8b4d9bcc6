"""The rules of subscriptions, split by aggregate: no database, no broker, no clock."""
