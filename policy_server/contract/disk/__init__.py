"""Writes files whole, and says beforehand where they cannot be written."""
