"""The bodies of URLB (arXiv 2110.15191) on dm_control's models, one domain a file."""
