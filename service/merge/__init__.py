"""Merging: policies, the rules that they name, and handing guests over to a logged-in session."""
