"""Dataset condensation with gradient matching (DC), and with siamese augmentation (DSA)."""
