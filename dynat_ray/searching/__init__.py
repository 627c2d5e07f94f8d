"""What a search tries and what came of it, in plain Python: spaces, proposals, records, ranking."""
