"""Lists of images: published ones and a user's own."""
