"""Lightning modules for searching and retraining, with their schedules, checks and metrics."""
