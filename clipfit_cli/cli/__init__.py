"""Words in, words out; torch, pandas and open_clip are imported inside commands only."""
