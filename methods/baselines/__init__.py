"""Sets made of real images, which every condensed set has to beat."""
