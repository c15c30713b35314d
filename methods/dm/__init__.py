"""Distribution matching (DM)."""
