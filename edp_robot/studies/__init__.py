"""Runs many trainings and writes one table. A study can be interrupted and resumed."""
