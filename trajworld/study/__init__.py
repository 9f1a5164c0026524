"""The study machine: a study is a list of cells, and tables and charts of their results."""
