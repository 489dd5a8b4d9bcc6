"""What is sold and who holds it: catalog, subscriptions, usage and test clocks."""
