"""Many runs: grids, tables, clusters and ensembles."""
