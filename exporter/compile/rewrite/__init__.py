"""What the passes share: the builder of nodes, matchers, and the operator table."""
