"""The choice between source and target statistics without labels, and the verdict on the result.

`criterion` scores predictions, `decision` chooses a candidate and judges a result by the scores.
Both are pure functions of numbers. `docs/auto.md` has the rule, its evidence and what it cannot
detect.
"""
