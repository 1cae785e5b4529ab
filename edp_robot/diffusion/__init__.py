"""The diffusion itself: schedule, losses, solver, networks. No reinforcement learning in here."""
