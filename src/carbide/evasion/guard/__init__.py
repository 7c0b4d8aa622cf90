"""Detectors at run time of the evasion room: one method a file, found by the registry."""
