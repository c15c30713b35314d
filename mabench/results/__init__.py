"""What records say: scores, spreads, tables. Pure functions of records."""
