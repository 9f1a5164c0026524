"""Model cards: what a run and the studies of its model recorded, as Markdown."""
