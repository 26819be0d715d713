"""Preference objectives as frozen values, and sums that are divided once."""
