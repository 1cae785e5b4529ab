"""Exploratory Diffusion Policy: pre-train without reward, fine-tune, distil, export. Importing this loads no torch."""

__version__ = "0.1.0"
