"""Weights of other programs, read, renamed and written."""
