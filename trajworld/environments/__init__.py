"""Simulators behind one interface, by name."""
