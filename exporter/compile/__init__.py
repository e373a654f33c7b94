"""The graph compiler: from the traced groups to one finished graph."""
