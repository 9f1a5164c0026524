"""Comparing the backends: pytest-benchmark suites, one for each question, and the report that joins them."""
