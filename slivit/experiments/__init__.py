"""Many runs: studies, curves, sweeps, and the demo."""
