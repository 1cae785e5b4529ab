"""Parts of train_speed.py."""
