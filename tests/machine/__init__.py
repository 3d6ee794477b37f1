"""The fault machine for real processes: it breaks a running system on purpose, under load, and judges every answer."""
