"""Turns a trained policy into a bundle, and wraps policies made elsewhere."""
