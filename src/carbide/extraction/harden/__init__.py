"""Defences of the extraction room: one method a file, found by the registry."""
