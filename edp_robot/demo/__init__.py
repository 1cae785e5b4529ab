"""Runs the whole pipeline once on this machine and writes a report."""
