"""The pre-training corpus: a table of environments, and what makes, names and describes its datasets."""
