"""What the chapters derive: posteriors, distances, networks and objectives."""
