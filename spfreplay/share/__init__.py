"""Traces for other people: anonymous, or cut down to what matters."""
