"""Minutes of operation: killed workers, clusters, load. `make test-ops` runs them."""
