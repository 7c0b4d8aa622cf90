"""Detectors at run time of the poisoning room: one method a file, found by the registry."""
