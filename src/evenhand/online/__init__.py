"""Methods that learn from answers they sample themselves: reward model, PPO, GRPO, AI feedback from a constitution."""
