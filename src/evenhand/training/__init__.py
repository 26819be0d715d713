"""Recipe, plan, step, loop, checkpoint and journal: one loop for every offline method."""
