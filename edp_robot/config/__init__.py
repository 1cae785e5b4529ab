"""Configurations: dataclasses, presets, and changes from the command line."""
