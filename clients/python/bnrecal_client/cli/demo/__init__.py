"""The data and the network of `bnrecal demo`, generated on the spot."""
