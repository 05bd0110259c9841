"""What every fit uses: its one shape, artifacts, states, metrics, several processes."""
