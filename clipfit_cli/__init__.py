"""Few-shot fine-tuning of CLIP models under one protocol."""

__version__ = "0.1.0"
