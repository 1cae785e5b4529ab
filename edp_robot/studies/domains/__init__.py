"""The study of exploration on bodies: `edp study exploration --domains`."""
