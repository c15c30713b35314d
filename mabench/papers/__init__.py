"""Numbers of papers, and our reproductions beside them."""
