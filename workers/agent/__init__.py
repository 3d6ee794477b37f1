"""A host's agent: a Celery worker that launches, restarts and drains the worker processes of its host."""
