"""Answers robots with a bundle's policy: sessions, scheduling, reload."""
