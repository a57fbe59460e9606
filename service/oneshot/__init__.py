"""The one-shot route: model and data in one request, the recalibrated model in the response."""
