"""What a model does with held-out pairs and prompts; knows nothing of how it was trained."""
