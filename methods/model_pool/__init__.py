"""Model Pool: DC with an occasional look through another network (Zhou et al. 2024)."""
