"""The benchmark: what the gateway adds to a call, as ratios within one run."""
