"""Candidates: reference implementations of condensation methods. They never see the test split or the examiner."""
