"""Serving a policy to a robot: bundle, wire, server, client, control loop, safety. No torch, no simulator."""
