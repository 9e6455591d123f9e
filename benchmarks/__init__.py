"""Measurements beside peers; not tests. `make bench` runs them all."""
