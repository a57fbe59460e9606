"""How many small batches become durable per second over several API replicas."""
