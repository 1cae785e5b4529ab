"""The study of fine-tuning: methods, tasks and seeds from shared pre-trainings."""
