"""A small Llama, trained in the repository, so that demos print words and parity tests compare separated logits."""
