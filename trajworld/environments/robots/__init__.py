"""Procedural robots: planar MuJoCo models that are drawn from a kind and a number."""
