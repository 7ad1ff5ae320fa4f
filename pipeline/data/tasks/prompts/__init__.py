"""The generators of contrast pairs, grouped by what a model has to look at. Files here are found by the registry."""
