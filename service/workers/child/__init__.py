"""The worker process, the only place where models are parsed; imports bn_ops, never HTTP."""
