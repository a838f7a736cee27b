"""The mathematics of the reward model and of PPO: pure functions over tensors, masks and floats.

They know nothing of models, recipes or processes. B is rows, T response tokens, K responses of a
ranking. What stands where a mask is False never matters, be it nan or inf, neither for a result nor
for a gradient. Half-precision inputs are computed in float32, float64 stays float64.
"""
