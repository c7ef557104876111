"""Users: rules applied to records."""
