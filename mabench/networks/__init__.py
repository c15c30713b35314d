"""Architectures, and the table of evaluators."""
