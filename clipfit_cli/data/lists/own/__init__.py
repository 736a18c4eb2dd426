"""Images of a user's own: where they are, and how they are listed."""
