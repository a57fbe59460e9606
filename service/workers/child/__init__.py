"""The worker process, the only place where a model is parsed: imports bn_ops, never HTTP."""
