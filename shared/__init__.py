"""What the roles share: words, and the fabric that carries them."""
