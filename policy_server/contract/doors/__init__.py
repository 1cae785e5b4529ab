"""Finds parts by name, makes them with options, and loads public names when they are used."""
