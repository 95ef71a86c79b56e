"""What can be asked for: five messages, one turn each, and the ports they need."""
