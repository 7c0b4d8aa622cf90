"""Geometry of inputs: balls, projections, bounds, prices, relations."""
