"""Trainers in the shape of TRL's: a script changes its import; what would not be heeded is refused by name."""
