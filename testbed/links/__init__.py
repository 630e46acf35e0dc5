"""Emulated links: what a client's network is said to be, and the back-ends that make it so."""
