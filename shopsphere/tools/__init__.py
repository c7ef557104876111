"""What the commands at the top level are made of. No service imports it."""
