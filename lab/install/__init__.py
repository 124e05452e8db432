"""What is installed and whether it works. Standard library only until something is checked."""
