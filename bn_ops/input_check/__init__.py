"""Whether a stream can be what the network was trained on, from its first samples.

A network's first BatchNorm layers store the moments that their input had in training. `check`
compares them with those of at most 64 samples, `ranking` finds the preprocessing that fits best,
`judging` decides. Nothing is imported here: `result` must load without a runtime.
"""
