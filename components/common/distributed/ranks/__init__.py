"""What runs in a rank: the command line, our network or the user's module, and what is left at the end."""
