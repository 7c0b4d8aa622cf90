"""Tests of the poisoning room."""
