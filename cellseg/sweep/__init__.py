"""Many runs, each in its own process, on this machine or on a Slurm cluster."""
