"""Answers robots with a bundle's policy: sessions, scheduling, control requests, reload."""
