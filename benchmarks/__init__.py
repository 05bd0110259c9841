"""Us beside the alternatives, each pair measured in one run: ``make bench``."""
