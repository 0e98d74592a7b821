"""Many runs: sweeping them, and what they say together."""
