"""Loading of models, adapters, fusions and heads from folders and hub ids, with strict checks."""
