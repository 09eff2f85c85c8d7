"""Measures of a set of samples against a reference set, as functions of their features, each with its error."""
