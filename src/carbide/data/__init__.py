"""Data: file formats, splits and built-in cases."""
