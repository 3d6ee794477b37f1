"""Places requests: who gives a prompt its head start and who takes it."""
