"""Ways to get bytes, one module each. Whether the bytes are the right ones is decided above them."""
