"""A search over settings: which to try next, and which of them mattered."""
