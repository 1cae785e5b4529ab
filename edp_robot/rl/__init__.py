"""Reinforcement learning shared by every stage: replay, DDPG, implicit Q-learning, guidance."""
