"""What is owed and why: invoices, tax, numbers and documents."""
