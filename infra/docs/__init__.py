"""Writes the pages that follow from the code, so that they cannot drift from it."""
