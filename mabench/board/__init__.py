"""Submissions, their gates and trust, the Hub, and the page."""
