"""The back door: Celery doorbells, the supervisor, the runner and its engines."""
