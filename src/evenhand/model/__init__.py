"""Text to tokens to scores: template, encoding, packing, attention, head."""
