"""Presets, and changes to a configuration from the command line."""
