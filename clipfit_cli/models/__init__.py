"""CLIP models: loading them, their towers, their class features."""
