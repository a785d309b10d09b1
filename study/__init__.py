"""Mechanism: knows how to run any trial, knows no particular experiment."""
