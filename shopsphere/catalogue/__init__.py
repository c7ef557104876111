"""Products and their search index: rules applied to records."""
