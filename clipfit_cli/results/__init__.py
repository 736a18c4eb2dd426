"""What is kept of finished runs, and how it is summed up, compared and shown."""
