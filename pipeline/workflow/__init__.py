"""What surrounds the steps: DVC's stages, what code decides a run, reservations, records shared and compared."""
