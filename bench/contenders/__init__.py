"""Programs that take part in contests, each in a process of its own."""
