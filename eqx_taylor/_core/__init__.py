"""The engine: programs read as recurrences of Taylor coefficients."""
