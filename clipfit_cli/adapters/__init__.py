"""What becomes of a trained adapter: predictions, exports, shared ones."""
