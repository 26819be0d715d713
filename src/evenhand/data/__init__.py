"""Judgments to pairs, as text: reading, audit, curation, split, snapshot. Needs no torch."""
