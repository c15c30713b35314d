"""Cells: planned, run here or on Ray, kept in a folder."""
