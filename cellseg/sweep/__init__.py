"""Many runs, each a process of its own, on this machine or on a Slurm cluster."""
