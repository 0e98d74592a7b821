"""Many runs read back, and what they say together."""
