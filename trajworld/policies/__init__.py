"""What acts: random behaviours and searched policies."""
