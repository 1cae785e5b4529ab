"""The tasks, one family a file, and `mujoco_task`, the base class of MuJoCo tasks.

A file in this folder registers its tasks in `TASKS`, and no other file has to name it.
"""
