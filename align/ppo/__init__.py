"""PPO: the loop, the rollout, advantages, updates, and what watches them."""
