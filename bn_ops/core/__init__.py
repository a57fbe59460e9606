"""The mathematics: moments, estimators and the loop over layers, on numpy alone."""
