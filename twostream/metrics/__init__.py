"""Numbers from scores and labels."""
