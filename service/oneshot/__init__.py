"""One request from model and data to the recalibrated model, over the durable parts below it."""
