"""Certificates of the evasion room: one method a file, found by the registry."""
