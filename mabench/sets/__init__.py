"""Condensed sets: what they are, and how files of strangers become one."""
