"""What every step and command uses: files, command lines, settings."""
