"""Measures how late a robot's joints follow their commands."""
