"""Learning algorithms: replay, DDPG, implicit Q-learning, and the rooms explore and finetune."""
