"""Dataset condensation by two heterogeneous networks (HMDC)."""
