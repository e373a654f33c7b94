"""From folders and hub ids to one complete model: what is on disk is installed whole, or refused with a reason."""
