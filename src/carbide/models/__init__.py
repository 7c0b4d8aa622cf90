"""Models of every framework behind one protocol."""
