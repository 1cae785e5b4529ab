"""Studies: many trainings, one table. An interrupted study continues where it stopped."""
