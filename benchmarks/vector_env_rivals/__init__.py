"""Parts of vector_env.py."""
