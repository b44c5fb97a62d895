"""Processes that compute together: their start, how they find each other, and sums over all of them."""
