"""evenhand: align a language model with pairwise preferences, and prove that it got better."""
