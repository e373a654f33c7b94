"""Writing of bundles: graphs, weights and manifest, in a staged folder."""
