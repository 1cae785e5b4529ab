"""Plays many robots at once and measures how long each answer takes."""
