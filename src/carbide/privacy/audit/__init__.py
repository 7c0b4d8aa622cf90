"""Attacks of the privacy room: one method a file, found by the registry."""
