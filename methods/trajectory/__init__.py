"""Trajectory matching: MTT, and AST with smooth experts, balanced and intermediate losses, and perturbed weights."""
