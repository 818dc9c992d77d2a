"""Traces from elsewhere: what other recorders write, made into a trace."""
